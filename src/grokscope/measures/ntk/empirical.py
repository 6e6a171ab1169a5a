"""The empirical neural tangent kernel, exact for any module, and the plan of its computation.

A model is inspected on three examples (`inspect`), which shows what rule covers each parameter
(`rules`) and so the terms of the kernel (`terms`). Of each side every term is captured by one
forward and some backward passes (`capture`), in blocks that bound the memory (`memory`), and the
two sides are contracted (`contract`). A product with a random vector checks the result (`check`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, leaf_name, leaves, rows
from grokscope.measures.company import Company
from grokscope.measures.guard import without_wrappers
from grokscope.measures.inputs import (
    check_batch,
    check_chunk_size,
    check_not_batch_dependent,
    generator_or_fresh,
)
from grokscope.measures.ntk.capture import CallsChanged, Part, Source, captured
from grokscope.measures.ntk.check import (
    checked_examples,
    lowest_precision,
    relative_error,
    sum_is_noise,
    tolerance,
)
from grokscope.measures.ntk.contract import add_diagonal, add_full, symmetrize
from grokscope.measures.ntk.inspect import inspected
from grokscope.measures.ntk.memory import (
    Block,
    blocks,
    check_fits,
    chunk_length,
    grouped,
)
from grokscope.measures.ntk.plan import (
    Reduction,
    check_module,
    check_reduction,
    differentiating,
    paths_and_terms,
    trainable,
    usable,
)
from grokscope.measures.ntk.readout import readout_of
from grokscope.measures.ntk.sketch import SketchedKernel, sketched_kernel
from grokscope.measures.ntk.terms import Problem, Term


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
        check: compare a part of the structured result with the model's own derivatives, by one
            product with a random vector to 1e-4 in float32 and 1e-9 in float64. A parameter that
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
    check_module(model)
    check_batch(x1, "x1")
    if x2 is not None:
        check_batch(x2, "x2")
        _check_alike(x1, x2)
    check_chunk_size(chunk_size)
    check_reduction(reduce)
    _check_sketch(sketch, generator)
    check_not_batch_dependent(model)
    plain: nn.Module = without_wrappers(model)
    with differentiating(plain, x1):
        x2 = None if x2 is x1 else x2
        x1, x2 = usable(x1), None if x2 is None else usable(x2)
        chosen = trainable(plain, parameters)
        found = inspected(plain, x1, chosen, "x1")
        first = Source(plain, found, x1, found.company)
        second = None if x2 is None else Source(plain, found, x2, Company(plain, x2, name="x2"))
        if sketch is not None:
            seed = _seed(generator)
            return sketched_kernel(first, second, chosen, reduce, sketch, seed, chunk_size)
        return _kernel(first, second, chosen, reduce, chunk_size, check)


def _check_sketch(sketch: int | None, generator: torch.Generator | None) -> None:
    if sketch is not None and sketch < 2:
        raise ValueError(f"sketch must be 2 or more directions, or None: got {sketch}")
    if sketch is None and generator is not None:
        raise ValueError("generator is for sketch, whose directions it draws: pass sketch=1000")


def _seed(generator: torch.Generator | None) -> int:
    generator = generator_or_fresh(generator)
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def _kernel(
    first: Source,
    second: Source | None,
    chosen: Mapping[str, nn.Parameter],
    reduce: Reduction,
    chunk_size: int | None,
    check: bool,
) -> Tensor:
    model, found = first.model, first.found
    n1 = len(first)
    n2, k = n1 if second is None else len(second), found.num_outputs
    shape = (n1, n2, k, k) if reduce == "full" else (n1, n2)
    check_fits(shape, found.dtype, found.outputs.device)
    basis, beyond = None, None
    if reduce == "trace":
        basis, beyond = _narrowed(first, second, chosen, chunk_size)
    rows = 1 if reduce == "sum" else k if basis is None else len(basis)
    problem = Problem(n1, n2, rows, diagonal=reduce == "trace")
    terms = paths_and_terms(model, chosen, found, problem)[1]
    pairs = Pairs(
        first,
        second,
        chosen,
        _directions(k, reduce, check, found.outputs, basis),
        summed=None if reduce == "full" and k > 1 else problem.rows,
        chunk_size=chunk_size,
    )
    kernel = _checked(pairs, terms) if check else _unchecked(pairs, terms)[0]
    if reduce == "trace":
        return (kernel if beyond is None else kernel.add_(beyond)).div_(k)
    if reduce == "sum" and sum_is_noise(model, chosen, first.x):
        warnings.warn(
            "the kernel of the summed outputs is rounding noise, as they sum to a constant (a "
            'softmax, or two logits of opposite sign): take the logits, reduce="trace", or a '
            "difference of outputs with gs.View",
            RuntimeWarning,
            stacklevel=3,
        )
    return kernel.view(shape) if kernel.ndim == 2 else kernel.permute(1, 3, 0, 2)


def _narrowed(
    first: Source,
    second: Source | None,
    chosen: Mapping[str, nn.Parameter],
    chunk_size: int | None,
) -> tuple[Tensor | None, Tensor | None]:
    """A basis of fewer directions for a trace, and the kernel (n1, n2) of all others, if any."""
    readout = readout_of(first.found)
    if readout is None:
        return None, None
    chunk = chunk_size or chunk_length([], 1, first.found.saved_bytes, 1)
    one = readout.features(first, chosen, chunk)
    two = one if second is None or one is None else readout.features(second, chosen, chunk)
    if one is None or two is None:
        return None, None
    left = readout.basis.shape[1] - len(readout.basis)
    beyond = left * (one @ two.T)
    return readout.basis, (beyond + beyond.T) / 2 if second is None else beyond


@dataclass(frozen=True)
class Pairs:
    """What a kernel is between.

    Attributes:
        first: the examples of the first side.
        second: those of the second, or None if they are the same.
        chosen: the parameters that the kernel is over.
        directions: (r, k) combinations of the outputs, one for each row.
        summed: None for the kernel between all rows, or s for the sum of the first s rows'
            kernels with themselves.
        chunk_size: examples that go through the model at once; None chooses by memory.
    """

    first: Source
    second: Source | None
    chosen: Mapping[str, nn.Parameter]
    directions: Tensor
    summed: int | None
    chunk_size: int | None

    def kernel(self, terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
        """The kernel over ``terms``.

        Returns:
            (r, n1, r, n2) between all rows and the same again; or (n1, n2), summed, and
            (1, n1, 1, n2) of the last row alone.
        """
        rows, n1 = len(self.directions), len(self.first)
        n2 = n1 if self.second is None else len(self.second)
        shape = (rows, n1, rows, n2) if self.summed is None else (n1, n2)
        total = self.directions.new_zeros(shape, dtype=self.first.found.dtype)
        last = total
        if self.summed is not None and self.summed < rows:
            last = torch.zeros_like(total)
        itemsize = total.dtype.itemsize
        together = n1 if self.second is None else n1 + n2
        for group in grouped(terms, rows, together, itemsize):
            first = blocks(group, rows, n1, together, itemsize)
            second = first if self.second is None else blocks(group, rows, n2, together, itemsize)
            self._add_group(group, first, second, total, last)
        if self.second is None:
            symmetrize(total.view(rows * n1, -1) if self.summed is None else total)
            if last is not total:
                symmetrize(last)
        return total, last if self.summed is None else last[None, :, None]

    def _add_group(
        self,
        group: list[Term],
        blocks1: list[Block],
        blocks2: list[Block],
        total: Tensor,
        last: Tensor,
    ) -> None:
        for i, one in enumerate(blocks1):
            first = self._parts(group, self.first, one)
            for j, two in enumerate(blocks2):
                if self.second is None and j < i:
                    continue
                if self.summed is not None and one.rows != two.rows:
                    continue
                same = self.second is None and i == j
                second = first if same else self._parts(group, self.second or self.first, two)
                if self.summed is None:
                    place = total[one.rows, one.examples, two.rows, two.examples]
                    add_full(place, first, second, same)
                else:
                    self._add_summed(first, second, one, two, same, total, last)

    def _add_summed(
        self,
        first: list[Part],
        second: list[Part],
        one: Block,
        two: Block,
        same: bool,
        total: Tensor,
        last: Tensor,
    ) -> None:
        """Add the rows that count to ``total``, and a further one, if any, to ``last``."""
        assert self.summed is not None
        for kernel, begin, end in (
            (total, one.rows.start, min(one.rows.stop, self.summed)),
            (last, max(one.rows.start, self.summed), one.rows.stop),
        ):
            if begin < end:
                rows = slice(begin - one.rows.start, end - one.rows.start)
                left = [part.of_rows(rows) for part in first]
                right = left if same else [part.of_rows(rows) for part in second]
                add_diagonal(kernel[one.examples, two.examples], left, right, same)

    def _parts(self, group: list[Term], side: Source, block: Block) -> list[Part]:
        directions = self.directions[block.rows]
        chunk = self.chunk_size or chunk_length(
            group, len(directions), side.found.saved_bytes, side.found.dtype.itemsize
        )
        return captured(side.examples(block.examples), group, directions, chunk)

    def restricted(self) -> Pairs:
        """The same between the examples that the check looks at."""
        sides = [self.first if side is None else side for side in (self.first, self.second)]
        one, two = (_some(side, checked_examples(len(side))) for side in sides)
        return replace(self, first=one, second=None if self.second is None else two)


def _some(side: Source, index: list[int]) -> Source:
    """Some of the examples, in another order; their company is known by then."""
    company = Company(side.model, side.x, [], side.company.name)
    return replace(side, x=rows(side.x, index), company=company)


def _directions(
    k: int, reduce: Reduction, check: bool, like: Tensor, basis: Tensor | None
) -> Tensor:
    """The combinations of outputs, (r, k), that the kernel is between."""
    if reduce == "sum":
        return like.new_ones(1, k)
    unit = torch.eye(k, dtype=like.dtype, device=like.device) if basis is None else basis
    if reduce == "full" or k == 1 or not check:
        return unit
    # a kernel that is summed over outputs cannot be checked by products with vectors; one more
    # row, a mixture of all outputs, goes the same way and can
    mixture = torch.randn(1, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([unit, (mixture / math.sqrt(k)).to(unit)])


def _unchecked(pairs: Pairs, terms: Sequence[Term]) -> tuple[Tensor, Tensor, Sequence[Term]]:
    """The kernel, what of it can be checked, and the terms, slower where calls have changed."""
    while True:
        try:
            return *pairs.kernel(terms), terms
        except CallsChanged as changed:
            terms = _slower(terms, _changed(terms, changed))


def _changed(terms: Sequence[Term], changed: CallsChanged) -> list[Term]:
    """The terms whose calls are not those that the inspection found."""
    ids = changed.parameters
    named = [t for t in terms if t.calls and ids and not ids.isdisjoint(map(id, t.parameters))]
    return named or [term for term in terms if term.calls or term.form == "expanded"]


def _checked(pairs: Pairs, terms: Sequence[Term]) -> Tensor:
    """The kernel, with the terms that fail the check on a slower path."""
    kernel, checkable, covered = _unchecked(pairs, terms)
    if _passes(pairs, pairs.chosen, checkable):
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
    return _unchecked(pairs, slower)[0]


def _warn(wrong: Iterable[Term]) -> None:
    named = ", ".join(repr(name) for term in wrong for name in term.names)
    warnings.warn(
        f"the structured path does not cover how the model uses {named}; these parameters take "
        "the generic path, which is slower",
        RuntimeWarning,
        stacklevel=5,
    )


def _passes(pairs: Pairs, parameters: Mapping[str, nn.Parameter], kernel: Tensor) -> bool:
    """Whether ``kernel`` (r, n1, r, n2), of the last rows, agrees with the derivatives."""
    first, second = pairs.first, pairs.second or pairs.first
    one, two = checked_examples(len(first)), checked_examples(len(second))
    part = kernel[:, torch.tensor(one)[:, None], :, torch.tensor(two)].permute(2, 0, 3, 1)
    directions = pairs.directions[-len(kernel) :]
    x1, x2 = rows(first.x, one), rows(second.x, two)
    error = relative_error(first.model, parameters, part, x1, x2, directions)
    if not math.isfinite(error):
        raise ValueError("the kernel holds NaN or infinity: so do the model's derivatives")
    return error <= tolerance(lowest_precision(parameters, directions.dtype))


def _failing(pairs: Pairs, terms: Sequence[Term]) -> list[Term]:
    """Those of ``terms`` whose own kernel disagrees with the derivatives."""
    few_pairs = pairs.restricted()
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


def _slower(terms: Sequence[Term], wrong: Sequence[Term]) -> list[Term]:
    """``terms`` with those in ``wrong`` on the next slower path; empty if there is none."""
    kept = [term for term in terms if not any(term is w for w in wrong)]
    changed = [
        Term((name,), (parameter,), "single" if term.form == "generic" else "generic")
        for term in wrong
        for name, parameter in zip(term.names, term.parameters, strict=True)
        if term.form != "single"
    ]
    return kept + changed if changed else []


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
