"""The empirical neural tangent kernel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from grokscope.measures.inputs import check_batch, check_chunk_size, check_not_batch_dependent
from grokscope.measures.ntk._capture import CallsChanged
from grokscope.measures.ntk._check import checked_examples, relative_error, tolerance
from grokscope.measures.ntk._cost import Problem
from grokscope.measures.ntk._memory import check_fits
from grokscope.measures.ntk._pairs import Pairs
from grokscope.measures.ntk._plan import (
    Reduction,
    check_module,
    check_reduction,
    paths_and_terms,
    trainable,
)
from grokscope.measures.ntk._probe import probe
from grokscope.measures.ntk._state import differentiating, usable
from grokscope.measures.ntk._terms import Term


def empirical_ntk(
    model: nn.Module,
    x1: Shaped[Tensor, "n1 ..."],
    x2: Shaped[Tensor, "n2 ..."] | None = None,
    reduce: Reduction = "full",
    chunk_size: int | None = None,
    parameters: Sequence[str] | None = None,
    check: bool = True,
) -> Float[Tensor, "n1 n2 ..."]:
    """The empirical neural tangent kernel of ``model`` between two batches, exactly.

    ``K[a, b, i, j] = <df_i(x1[a])/dtheta, df_j(x2[b])/dtheta>`` (Jacot et al. 2018), over the
    trainable parameters theta, each counted once however often it is used.

    Weights of linear, convolution, embedding and normalization layers are contracted from the
    layers' inputs and output cotangents (Novak et al. 2022), without a Jacobian; every other
    parameter from its per-example Jacobian. ``ntk_plan`` says which takes which path.

    Args:
        model: a module that maps (n, ...) to (n, k) or (n,), each example by itself. Its mode,
            gradients, hooks and the global random state are left as they are.
        x1: (n1, ...) examples, floating point or integer.
        x2: (n2, ...) examples; ``x1`` again where None.
        reduce: "full" for all pairs of outputs; "trace" for the mean over outputs of
            ``K[:, :, i, i]``; "sum" for the kernel of the summed outputs.
        chunk_size: examples that go through the model at once; None chooses so that the peak
            stays under 2 GB beyond the result.
        parameters: names to restrict theta to, for the kernel of a layer; None for all that are
            trainable.
        check: compare a part of the structured result with the model's own derivatives, by one
            product with a random vector to 1e-4 in float32 and 1e-9 in float64. A parameter that
            fails takes the generic path, with a warning that names it.

    Returns:
        (n1, n2, k, k) for "full", k = 1 for a scalar output, (n1, n2) otherwise; without a graph.
        The full kernel is a view of a matrix (k n1, k n2), which
        ``kernel.permute(2, 0, 3, 1).reshape(k * n1, k * n2)`` gives back without a copy.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: an example's output depends on the rest of its batch or on chance
            (BatchNorm or dropout in training mode), an input is malformed, or a name in
            ``parameters`` is unknown or frozen.
        MemoryError: the result does not fit in free memory; raised before it is computed.

    Cost: k backward passes to the layers' outputs (1 for "sum"); then for a Linear of O outputs
    n1 n2 k^2 O multiply-adds ("trace": n1 n2 k O), halved where x2 is x1.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.empirical_ntk(torch.nn.Linear(3, 2), torch.eye(3))[:, :, 0, 0]
        tensor([[2., 1., 1.],
                [1., 2., 1.],
                [1., 1., 2.]])
    """
    check_module(model)
    check_batch(x1, "x1")
    if x2 is not None:
        check_batch(x2, "x2")
        _check_alike(x1, x2)
    check_chunk_size(chunk_size)
    check_reduction(reduce)
    check_not_batch_dependent(model)
    with differentiating(model):
        x1, x2 = usable(x1), None if x2 is None or x2 is x1 else usable(x2)
        return _kernel(model, x1, x2, reduce, chunk_size, parameters, check)


def _kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None,
    reduce: Reduction,
    chunk_size: int | None,
    names: Sequence[str] | None,
    check: bool,
) -> Tensor:
    chosen = trainable(model, names)
    found = probe(model, x1, list(chosen.values()))
    n1, n2, k = len(x1), len(x1 if x2 is None else x2), found.num_outputs
    shape = (n1, n2, k, k) if reduce == "full" else (n1, n2)
    check_fits(shape, found.outputs.dtype, found.outputs.device)
    problem = Problem(n1, n2, 1 if reduce == "sum" else k, diagonal=reduce == "trace")
    terms = paths_and_terms(model, x1, chosen, found, problem)[1]
    pairs = Pairs(
        model,
        found,
        x1,
        x2,
        _directions(k, reduce, check, found.outputs),
        summed=None if reduce == "full" and k > 1 else problem.rows,
        chunk_size=chunk_size,
    )
    kernel = _checked(pairs, terms) if check else _unchecked(pairs, terms)
    if reduce == "trace":
        return kernel.div_(k)
    return kernel.view(shape) if kernel.ndim == 2 else kernel.permute(1, 3, 0, 2)


def _directions(k: int, reduce: Reduction, check: bool, like: Tensor) -> Tensor:
    """The combinations of outputs, (r, k), that the kernel is between."""
    if reduce == "sum":
        return like.new_ones(1, k)
    unit = torch.eye(k, dtype=like.dtype, device=like.device)
    if reduce == "full" or k == 1 or not check:
        return unit
    # a kernel that is summed over outputs cannot be checked by products with vectors; one more
    # row, a mixture of all outputs, goes the same way and can
    mixture = torch.randn(1, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([unit, (mixture / math.sqrt(k)).to(unit)])


def _unchecked(pairs: Pairs, terms: Sequence[Term]) -> Tensor:
    try:
        return pairs.kernel(terms)[0]
    except CallsChanged:
        return pairs.kernel(_generic(terms, terms))[0]


def _checked(pairs: Pairs, terms: Sequence[Term]) -> Tensor:
    """The kernel, with the terms that fail the check on the generic path."""
    structured = [term for term in terms if term.form != "generic"]
    try:
        kernel, checkable = pairs.kernel(terms)
        if not structured or _passes(pairs, terms, checkable):
            return kernel
        del kernel, checkable
        wrong = _failing(pairs, structured) or structured
    except CallsChanged:
        wrong = structured
    named = ", ".join(repr(name) for term in wrong for name in term.names)
    warnings.warn(
        f"the structured path does not cover how the model uses {named}; these parameters take "
        "the generic path, which is slower",
        RuntimeWarning,
        stacklevel=4,
    )
    return pairs.kernel(_generic(terms, wrong))[0]


def _passes(pairs: Pairs, terms: Sequence[Term], kernel: Tensor) -> bool:
    """Whether ``kernel`` (r, n1, r, n2), of the last rows, agrees with the derivatives."""
    x2 = pairs.x1 if pairs.x2 is None else pairs.x2
    one = checked_examples(len(pairs.x1), pairs.x1.device)
    two = checked_examples(len(x2), pairs.x1.device)
    part = kernel[:, one[:, None], :, two].permute(2, 0, 3, 1)
    names = {n: p for t in terms for n, p in zip(t.names, t.parameters, strict=True)}
    directions = pairs.directions[-len(kernel) :]
    error = relative_error(pairs.model, names, part, pairs.x1[one], x2[two], directions)
    if not math.isfinite(error):
        raise ValueError("the kernel holds NaN or infinity: so do the model's derivatives")
    return error <= tolerance(kernel.dtype)


def _failing(pairs: Pairs, terms: Sequence[Term]) -> list[Term]:
    """Those of ``terms`` whose own kernel disagrees with the derivatives."""
    x2 = None if pairs.x2 is None else pairs.x2[checked_examples(len(pairs.x2), pairs.x1.device)]
    x1 = pairs.x1[checked_examples(len(pairs.x1), pairs.x1.device)]
    few = replace(pairs, x1=x1, x2=x2)
    return [term for term in terms if not _passes(few, [term], few.kernel([term])[1])]


def _generic(terms: Sequence[Term], wrong: Sequence[Term]) -> list[Term]:
    """``terms`` with those in ``wrong`` on the generic path."""
    kept = [term for term in terms if not any(term is w for w in wrong)]
    return kept + [
        Term((name,), (parameter,), "generic")
        for term in wrong
        for name, parameter in zip(term.names, term.parameters, strict=True)
    ]


def _check_alike(x1: Tensor, x2: Tensor) -> None:
    if x1.shape[1:] != x2.shape[1:] or x1.dtype != x2.dtype or x1.device != x2.device:
        raise ValueError(
            "x1 and x2 must differ in the number of examples only: got "
            f"{tuple(x1.shape)} {x1.dtype} on {x1.device} and "
            f"{tuple(x2.shape)} {x2.dtype} on {x2.device}"
        )
