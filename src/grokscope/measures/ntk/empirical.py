"""The empirical neural tangent kernel, exact for any module, and the plan of its computation.

The path of a model: it is inspected on three examples (`inspect`, by the `rules` of operations),
which shows what path each parameter takes and so the terms of the kernel (`plan`). The combinations
of outputs that the kernel is between are chosen (`directions`). Block by block (`memory`), each
term is captured by one forward and some backward passes (`capture`), and the two sides are
contracted (`contract`). Products with random vectors check the result (`check`). An estimate from
random directions of the parameters stands beside all that (`sketch`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, leaf_name, leaves, map_leaves, rows
from grokscope.measures.company import Company, outputs_at
from grokscope.measures.guard import undisturbed, without_wrappers
from grokscope.measures.inputs import (
    check_batch,
    check_chunk_size,
    check_not_batch_dependent,
    check_not_scripted,
    check_not_sharded,
    explained_refusals,
)
from grokscope.measures.norms import weights_in_buffers
from grokscope.measures.ntk.capture import Source
from grokscope.measures.ntk.check import checked, sum_is_noise, unchecked
from grokscope.measures.ntk.directions import directions_of, readout_of, with_mixture
from grokscope.measures.ntk.inspect import inspected
from grokscope.measures.ntk.memory import Pairs, bytes_beyond_result, check_fits
from grokscope.measures.ntk.plan import (
    NTKPlan,
    ParameterPlan,
    Problem,
    Term,
    contraction_cost,
    paths_and_terms,
    trainable,
)
from grokscope.measures.ntk.sketch import SketchedKernel, sketched_kernel
from grokscope.measures.precision import full_precision

Reduction = Literal["full", "trace", "sum"]
# examples of the pass that is timed, and the size of the product that the machine is timed by
_TIMED, _PRODUCT = 32, 256


@overload
def empirical_ntk(
    model: nn.Module,
    x1: Batch,
    x2: Batch | None = ...,
    reduce: Reduction = ...,
    chunk_size: int | None = ...,
    parameters: Sequence[str] | None = ...,
    check: bool = ...,
    *,
    sketch: None = ...,
    generator: None = ...,
) -> Tensor: ...
@overload
def empirical_ntk(
    model: nn.Module,
    x1: Batch,
    x2: Batch | None = ...,
    reduce: Reduction = ...,
    chunk_size: int | None = ...,
    parameters: Sequence[str] | None = ...,
    check: bool = ...,
    *,
    sketch: int,
    generator: torch.Generator | None = ...,
) -> SketchedKernel: ...
@checked_arguments
def empirical_ntk(
    model: nn.Module,
    x1: Batch,
    x2: Batch | None = None,
    reduce: Reduction = "full",
    chunk_size: int | None = None,
    parameters: Sequence[str] | None = None,
    check: bool = True,
    *,
    sketch: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n1 n2 ..."] | SketchedKernel:
    """The empirical neural tangent kernel of ``model`` between two batches, exactly.

    ``K[a, b, i, j] = <df_i(x1[a])/dtheta, df_j(x2[b])/dtheta>`` (Jacot et al. 2018), over the
    trainable parameters theta, each counted once however often it is used.

    Weights of linear, convolution, embedding, normalization, attention and recurrent layers are
    contracted from the layers' inputs and output cotangents (Novak et al. 2022), without a
    Jacobian; every other parameter from its per-example Jacobian. ``ntk_plan`` says which takes
    which path.

    Args:
        model: a module that maps a batch to (n, k) or (n,), each example by itself. It and the
            global random state are left as they are. Of one that is compiled or distributed, the
            module inside is measured.
        x1: n1 examples: a tensor (n1, ...), floating point or integer, or a tuple, list or
            dictionary of tensors (see `View`).
        x2: n2 examples of the same kind; ``x1`` again where None.
        reduce: "full" for all pairs of outputs; "trace" for the mean over outputs of
            ``K[:, :, i, i]``; "sum" for the kernel of the summed outputs, with a warning where it
            is rounding noise because they sum to a constant.
        chunk_size: examples that go through the model at once; None chooses so that the peak
            stays under 2 GB beyond the result.
        parameters: names to restrict theta to, for the kernel of a layer; None for all that are
            trainable.
        check: compare a part of the structured result with the model's own derivatives, by its
            products with random vectors, to 1e-4 in float32 and 1e-9 in float64. A parameter that
            fails takes the generic path, with a warning that names it.
        sketch: estimate the kernel from this many random directions, for networks where the exact
            one costs too much (see `grokscope.measures.ntk.sketch`); exact if None.
        generator: source of the directions. If None, a fresh one seeded by the operating system:
            the global random state is not touched.

    Returns:
        (n1, n2, k, k) for "full", k = 1 for a scalar output, (n1, n2) otherwise; without a graph,
        in float32 for a model of lower precision.
        The full kernel is a view of a matrix (k n1, k n2), which
        ``kernel.permute(2, 0, 3, 1).reshape(k * n1, k * n2)`` gives back without a copy.
        With ``sketch`` a pair, ``kernel, standard_error``: an unbiased estimate in the same shape,
        and how far each entry is off, about ``sqrt(K_aa K_bb / sketch)``.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if an example's output depends on the rest of its batch or on chance
            (BatchNorm or dropout in training mode, a mask held by a closure), an input is
            malformed, or a name in ``parameters`` is unknown or frozen.
        MemoryError: if the result does not fit in free memory; raised before it is computed.

    Cost: k backward passes to the layers' outputs (1 for "sum"); then for a Linear of O outputs
    n1 n2 k^2 O multiply-adds ("trace": n1 n2 k O), halved where x2 is x1. With ``sketch`` about
    three passes for each direction, however many outputs there are.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.empirical_ntk(torch.nn.Linear(3, 2), torch.eye(3))[:, :, 0, 0]
        tensor([[2., 1., 1.],
                [1., 2., 1.],
                [1., 1., 2.]])
    """
    check_batch(x1, "x1")
    if x2 is not None:
        check_batch(x2, "x2")
        _check_alike(x1, x2)
    check_chunk_size(chunk_size)
    if sketch is not None and sketch < 2:
        raise ValueError(f"sketch must be 2 or more directions, or None: got {sketch}")
    if sketch is None and generator is not None:
        raise ValueError("generator is for sketch, whose directions it draws: pass sketch=1000")
    with _inspected(model, x1, parameters, "x1") as first:
        second = None
        if x2 is not None and x2 is not x1:
            x2 = _usable(x2)
            second = Source(first.found, x2, Company(first.model, x2, name="x2"))
        if sketch is not None:
            return sketched_kernel(first, second, reduce, sketch, generator, chunk_size)
        return _kernel(first, second, reduce, chunk_size, check)


def _kernel(
    first: Source, second: Source | None, reduce: Reduction, chunk_size: int | None, check: bool
) -> Tensor:
    n1, n2, k = len(first), len(second or first), first.found.num_outputs
    shape = (n1, n2, k, k) if reduce == "full" else (n1, n2)
    check_fits(shape, first.found.dtype, first.found.outputs.device)
    directions, beyond = directions_of(reduce, first, second, chunk_size)
    problem = Problem(n1, n2, len(directions), diagonal=reduce == "trace")
    terms = paths_and_terms(first.found, problem)[1]
    summed = None if reduce == "full" and k > 1 else len(directions)
    if check and reduce == "trace" and k > 1:
        directions = with_mixture(directions)
    pairs = Pairs(first, second, directions, summed, chunk_size)
    kernel = checked(pairs, terms) if check else unchecked(pairs, terms)[0]
    if reduce == "trace":
        return (kernel if beyond is None else kernel.add_(beyond)).div_(k)
    if reduce == "sum" and sum_is_noise(first.model, first.found.parameters, first.x):
        warnings.warn(
            "the kernel of the summed outputs is rounding noise, as they sum to a constant (a "
            'softmax, or two logits of opposite sign): take the logits, reduce="trace", or a '
            "difference of outputs with gs.View",
            RuntimeWarning,
            stacklevel=4,
        )
    return kernel.view(shape) if kernel.ndim == 2 else kernel.permute(1, 3, 0, 2)


@checked_arguments
def ntk_plan(
    model: nn.Module,
    x: Batch,
    reduce: Reduction = "full",
    parameters: Sequence[str] | None = None,
) -> NTKPlan:
    """Which path every parameter of ``model`` takes to its kernel on ``x``, and what that costs.

    Args:
        model: a module that maps a batch to (n, k) or (n,).
        x: a batch, as for ``empirical_ntk``.
        reduce: as for ``empirical_ntk``; the cheaper order of contraction may depend on it.
        parameters: names to restrict the kernel to, as for ``empirical_ntk``.

    Returns:
        The plan: ``plan.parameters[name].path`` is "structured", "expanded", "generic",
        "unused", "frozen" or "buffer", ``plan.parameters[name].how`` says how or why.

    Raises:
        TypeError: as for ``empirical_ntk``.
        ValueError: as for ``empirical_ntk``.

    Cost: one forward pass of two and one forward and backward pass of three examples, and of some
    thirty for the estimate of seconds.

    Example:
        >>> import torch, grokscope as gs
        >>> print(gs.ntk_plan(torch.nn.Linear(3, 2), torch.randn(5, 3)))
        weight  structured  Linear, inputs and cotangents kept apart
        bias    structured  Linear, inputs and cotangents kept apart
        about ... s and ... MB
    """
    check_batch(x)
    with _inspected(model, x, parameters) as source:
        found, n, k = source.found, len(source), source.found.num_outputs
        readout = readout_of(found) if reduce == "trace" else None
        num_rows = 1 if reduce == "sum" else k if readout is None else len(readout.basis)
        problem = Problem(n, n, num_rows, diagonal=reduce == "trace")
        plans, terms = paths_and_terms(found, problem)
        seconds = _seconds(source, terms, problem)
    itemsize = found.dtype.itemsize
    result = n * n * (k * k if reduce == "full" else 1) * itemsize
    beyond = bytes_beyond_result(terms, num_rows, n, found.saved_bytes, itemsize)
    for name, parameter in found.model.named_parameters() if parameters is None else ():
        if not parameter.requires_grad:
            plans[name] = ParameterPlan("frozen", "requires_grad is False")
    ordered = {name: plans[name] for name, _ in found.model.named_parameters() if name in plans}
    for name in weights_in_buffers(found.model) if parameters is None else ():
        ordered[name] = ParameterPlan("buffer", "left out: if it is a weight, make it a parameter")
    return NTKPlan(ordered, k, seconds, result + beyond)


def _seconds(source: Source, terms: Sequence[Term], problem: Problem) -> float:
    """About how long the passes and the contraction take, from a pass and a product timed here."""
    timed = min(_TIMED, problem.n1)
    start = _clock(source)
    outputs = outputs_at(source.model, rows(source.x, slice(0, timed)))
    between = _clock(source)
    chosen = list(source.found.parameters.values())
    torch.autograd.grad(outputs.sum(), chosen, allow_unused=True)
    backward = _clock(source) - between
    one_pass = between - start + problem.rows * backward
    # a pass that gives each example its own parameters costs about one more; single examples
    # cost a pass each, of a length that hardly depends on the batch
    several = 1 + sum(term.form == "generic" for term in terms)
    alone = problem.n1 * one_pass if any(term.form == "single" for term in terms) else 0.0
    factor = torch.ones(_PRODUCT, _PRODUCT, dtype=outputs.dtype, device=outputs.device)
    start = _clock(source)
    torch.mm(factor, factor)
    rate = _PRODUCT**3 / max(_clock(source) - start, 1e-9)
    contraction = sum(contraction_cost(term, problem) for term in terms) / 2
    return problem.n1 / timed * several * one_pass + alone + contraction / rate


def _clock(source: Source) -> float:
    if source.found.outputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _inspected(
    model: nn.Module, x: Batch, parameters: Sequence[str] | None, name: str = "x"
) -> Iterator[Source]:
    """One side of a kernel, its model inspected and as it was afterwards; derivatives are on."""
    _check_module(model)
    check_not_batch_dependent(model)
    plain: nn.Module = without_wrappers(model)
    with (
        explained_refusals(),
        undisturbed(plain),
        torch.inference_mode(False),
        torch.enable_grad(),
        full_precision(next(iter(leaves(x).values()))),
    ):
        x = _usable(x)
        found = inspected(plain, x, trainable(plain, parameters, model), name)
        yield Source(found, x, found.company)


def _usable(x: Batch) -> Batch:
    """``x`` without its graph, and outside of inference mode."""
    return map_leaves(lambda leaf: leaf.clone() if leaf.is_inference() else leaf.detach(), x)


def _check_module(model: nn.Module) -> None:
    """Raise unless ``model`` has parameters for a kernel to be over."""
    if not any(p.requires_grad for p in model.parameters()):
        if buffers := weights_in_buffers(model):
            raise ValueError(
                f"model has no trainable parameters but {len(buffers)} floating-point buffers, "
                "where a converted model has its weights: make them parameters"
            )
        raise ValueError("model has no trainable parameters; call .requires_grad_() on some")
    check_not_scripted(model)
    check_not_sharded(
        model,
        "take the kernel of an unsharded copy, loaded from get_model_state_dict(model, "
        "options=StateDictOptions(full_state_dict=True))",
    )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_complex():
            raise ValueError(
                f"model has the complex parameter {name!r}, of which no kernel is taken: freeze "
                "it, or keep its real and imaginary parts as a real parameter"
            )
    for name, module in model.named_modules():
        if getattr(module, "scale_grad_by_freq", False):
            raise ValueError(
                f"model has {type(module).__name__} with scale_grad_by_freq at {name!r}: what it "
                "returns for a gradient is none; set its scale_grad_by_freq to False"
            )


def _check_alike(x1: Batch, x2: Batch) -> None:
    one, two = leaves(x1, "x1"), leaves(x2, "x2")
    if one.keys() != two.keys():
        raise ValueError(
            "x1 and x2 must differ in the number of examples only: got tensors "
            f"{', '.join(map(repr, one))} and {', '.join(map(repr, two))}"
        )
    for key, a in one.items():
        b = two[key]
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype or a.device != b.device:
            raise ValueError(
                "x1 and x2 must differ in the number of examples only: got "
                f"{leaf_name(key, 'x1')} {tuple(a.shape)} {a.dtype} on {a.device} and "
                f"{leaf_name(key, 'x2')} {tuple(b.shape)} {b.dtype} on {b.device}"
            )
