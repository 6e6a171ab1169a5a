"""A kernel against the model's own derivatives: its products with random vectors.

``w^T K v`` must be ``<J_1^T w, J_2^T v>``, by plain backward passes over all parameters that the
kernel is over: so one that was left out by mistake is missed as well. The terms that fail are taken
on a slower path.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.centroid import is_noise, noise_share, weights_across
from grokscope.measures.company import outputs_at
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.magnitudes import inner_product
from grokscope.measures.ntk.capture import CallsChanged
from grokscope.measures.ntk.memory import Pairs
from grokscope.measures.ntk.plan import Term

# relative errors that rounding explains, by the type that the model computes in
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_LOW_PRECISION = 5e-2
_FEW = 8
_VECTORS = 2  # on each side


def checked(pairs: Pairs, terms: Sequence[Term]) -> Tensor:
    """The kernel, with the terms that fail the check on a slower path.

    Raises:
        ValueError: if none of the paths agrees with the derivatives.
    """
    kernel, checkable, covered = unchecked(pairs, terms)
    if _passes(pairs, pairs.first.found.parameters, checkable):
        if covered is not terms:
            _warn(term for term in terms if not any(term is kept for kept in covered))
        return kernel
    del kernel, checkable
    wrong = _failing(pairs, covered) or covered
    slower = _slower(covered, wrong)
    if not slower:
        raise ValueError(
            "the kernel does not agree with the model's own derivatives, one example at a time "
            "either: an example's output may depend on the rest of its batch; check=False turns "
            "the comparison off"
        )
    _warn(wrong)
    return unchecked(pairs, slower)[0]


def unchecked(pairs: Pairs, terms: Sequence[Term]) -> tuple[Tensor, Tensor, Sequence[Term]]:
    """The kernel, what of it can be checked, and the terms, slower where calls have changed."""
    while True:
        try:
            return *pairs.kernel(terms), terms
        except CallsChanged as changed:
            ids = changed.parameters or set()
            wrong = [t for t in terms if t.calls and not ids.isdisjoint(map(id, t.parameters))]
            terms = _slower(terms, wrong or [t for t in terms if t.calls or t.form == "expanded"])


def _slower(terms: Sequence[Term], wrong: Sequence[Term]) -> list[Term]:
    """``terms`` with those in ``wrong`` on the next slower path; empty if there is none."""
    changed = [slower for term in wrong for slower in term.slower]
    kept = [term for term in terms if not any(term is w for w in wrong)]
    return kept + changed if changed else []


def _warn(wrong: Iterable[Term]) -> None:
    named = ", ".join(repr(name) for term in wrong for name in term.names)
    warnings.warn(
        f"the structured path does not cover how the model uses {named}; these parameters take "
        "the generic path, which is slower",
        RuntimeWarning,
        stacklevel=6,
    )


def _failing(pairs: Pairs, terms: Sequence[Term]) -> list[Term]:
    """Those of ``terms`` whose own kernel disagrees with the derivatives."""
    few_pairs = pairs.restricted(*map(checked_examples, (len(pairs.first), len(pairs.other))))
    wrong = []
    for term in terms:
        own = dict(zip(term.names, term.parameters, strict=True))
        try:
            right = _passes(few_pairs, own, few_pairs.kernel([term])[1])
        except CallsChanged:
            right = False
        if not right:
            wrong.append(term)
    return wrong


def _passes(pairs: Pairs, parameters: Mapping[str, nn.Parameter], kernel: Tensor) -> bool:
    """Whether ``kernel`` (r, n1, r, n2), of the last rows, agrees with the derivatives."""
    first, second = pairs.first, pairs.other
    one, two = checked_examples(len(first)), checked_examples(len(second))
    part = kernel[:, torch.tensor(one)[:, None], :, torch.tensor(two)].permute(2, 0, 3, 1)
    directions = pairs.directions[-len(kernel) :]
    x1 = rows(first.x, one)
    x2 = x1 if second is first else rows(second.x, two)
    error = relative_error(first.model, parameters, part, x1, x2, directions)
    if not math.isfinite(error):
        raise ValueError("the kernel holds NaN or infinity: so do the model's derivatives")
    return error <= tolerance(lowest_precision(parameters, directions.dtype))


def tolerance(dtype: torch.dtype) -> float:
    """The relative error up to which the kernel of a model that computes in ``dtype`` passes."""
    return _TOLERANCE.get(dtype, _LOW_PRECISION)


def checked_examples(count: int) -> list[int]:
    """The examples that the check looks at: an eighth of them, but at least 16, spread evenly.

    The last comes first, and so each stands in another place than in the batch.
    """
    number = min(count, max(16, count // 8))
    return torch.linspace(count - 1, 0, number, dtype=torch.float64).round().long().tolist()


def relative_error(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    kernel: Tensor,
    x1: Batch,
    x2: Batch,
    directions: Tensor,
) -> float:
    """How far ``w^T K v`` is from ``<J_1^T w, J_2^T v>``, relative to the lengths of the two.

    The largest of four pairs of two random vectors each, of which one may be nearly blind to a
    mistake of either sign. Where the gradients of summed outputs cancel, what rounding leaves is
    measured against what cancelled.

    Args:
        model: maps a batch to (n, k) or (n,).
        parameters: what the kernel is over.
        kernel: (r, n1, r, n2).
        x1: n1 examples.
        x2: n2 examples; the same object where the two sides are one.
        directions: (r, k).
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    r, n1, _, n2 = kernel.shape
    wide = directions.to(kernel.dtype)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(kernel)

    w = random(_VECTORS, r, n1)
    v = w if x1 is x2 else random(_VECTORS, r, n2)
    left = _pulled_back(model, parameters, x1, w.mT @ wide)
    right = left if x1 is x2 else _pulled_back(model, parameters, x2, v.mT @ wide)
    found = w.flatten(1) @ kernel.reshape(r * n1, r * n2) @ v.flatten(1).T
    expected = torch.tensor([[_inner(a, b) for b in right] for a in left], dtype=torch.float64)
    lengths, others = (
        torch.tensor([_norm(of) for of in side], dtype=torch.float64) for side in (left, right)
    )
    sizes = torch.outer(lengths, others)
    wrong = (found.cpu() - expected).abs()
    error = float((wrong / sizes.clamp(min=1e-300)).max())
    if error <= tolerance(lowest_precision(parameters, directions.dtype)):
        return error
    uncancelled = (
        _norm(_pulled_back(model, parameters, x, random(1, batch_size(x), wide.shape[1]))[0])
        for x in (x1, x2)
    )
    return float(wrong.max()) / max(math.prod(uncancelled), 1e-300)


def sum_is_noise(model: nn.Module, parameters: Mapping[str, nn.Parameter], x: Batch) -> bool:
    """Whether the gradients of the summed outputs are what rounding leaves of those that cancel.

    As for centroids (`measures.centroid.noise_of`), two signs tell, on a few examples.
    """
    few = rows(x, checked_examples(batch_size(x))[:_FEW])
    outputs = outputs_at(model, few)
    n, k = outputs.shape
    if k == 1:
        return False
    weights = weights_across(k)
    summed, across, both = (
        _gradients(outputs, parameters, w.expand(n, k))
        for w in (torch.ones_like(weights), weights, 1 + weights)
    )
    size = _norm(across) / float(weights.norm()) * k**0.5
    length = _norm(summed)
    if length == 0 or size == 0:
        return length < size
    dtype = lowest_precision(parameters, torch.float64)
    level = torch.tensor([length / size], dtype=torch.float64)
    apart = {name: both[name] - across[name] - summed[name] for name in both}
    if bool(is_noise(level, torch.ones_like(level), k, dtype)):
        return True
    return _norm(apart) > noise_share(dtype) * length


def lowest_precision(parameters: Mapping[str, nn.Parameter], dtype: torch.dtype) -> torch.dtype:
    """The least precise of the types that a model computes in."""
    return max((dtype, *(p.dtype for p in parameters.values())), key=lambda d: torch.finfo(d).eps)


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return sum(inner_product(tensor, second[name]) for name, tensor in first.items())


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return _inner(tensors, tensors) ** 0.5


def _pulled_back(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], x: Batch, cotangents: Tensor
) -> list[dict[str, Tensor]]:
    """``J^T v``, by parameter, for each of several cotangents (n, k)."""
    outputs = outputs_at(model, x)
    return [_gradients(outputs, parameters, cotangent) for cotangent in cotangents]


def _gradients(
    outputs: Tensor, parameters: Mapping[str, nn.Parameter], cotangent: Tensor
) -> dict[str, Tensor]:
    grads = gradients_or_zeros(
        outputs, list(parameters.values()), cotangent.to(outputs), retain_graph=True
    )
    dense = [grad.to_dense() if grad.is_sparse else grad for grad in grads]
    return dict(zip(parameters, dense, strict=True))
