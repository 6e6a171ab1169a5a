"""A kernel from random projections of the gradients, where the exact one costs too much.

With m random directions r_t of signs in the space of the parameters,

    K[a, b, i, j] = E <df_i(x_a)/dtheta, r> <r, df_j(x_b)/dtheta>,

so the mean over t is an unbiased estimate, and its standard error is that of a mean of m
independent numbers: about ``sqrt(K_aa K_bb / m)``. One direction is one Jacobian-vector product for
all outputs of all examples: the cost does not grow with k, nor the memory with the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.measures.batches import batch_size, chunks
from grokscope.measures.inputs import generator_or_fresh
from grokscope.measures.ntk.capture import Source, pushing_forward
from grokscope.measures.ntk.memory import chunk_length
from grokscope.shown import shown

# a pass that can be differentiated twice keeps about so many times what a plain one does
_TWICE = 4


@shown()
class SketchedKernel(NamedTuple):
    """An unbiased estimate of a kernel.

    Attributes:
        kernel: in the shape of the exact one.
        standard_error: of every entry, in the same shape; the estimate is off by more than twice
            as much in about one of twenty.
    """

    kernel: Tensor
    standard_error: Tensor


def sketched_kernel(
    first: Source,
    second: Source | None,
    reduce: Literal["full", "trace", "sum"],
    directions: int,
    generator: torch.Generator | None,
    chunk_size: int | None,
) -> SketchedKernel:
    """The kernel between two sides from random directions, which ``generator`` draws."""
    seed = _seed(generator)
    one = _projected(first, reduce, directions, seed, chunk_size)
    two = one
    if second is not None:
        two = _projected(second, reduce, directions, seed, chunk_size)
    # squares of squares follow: of numbers below one they stay within float32
    # one scale for both sides, undone as its square: the ratio between them must not change
    scale = float(max(one.abs().max(), two.abs().max())) or 1.0
    one, two = one / scale, two / scale
    mean, square = (_of_outputs if reduce == "trace" else _of_pairs)(one, two)
    # of the mean, so (E x^2 - (E x)^2) m / (m - 1) / m; rounding may leave it below zero
    variance = (square - mean.square()).clamp_(min=0) / (directions - 1)
    return SketchedKernel(*(_shaped(t, one, two, reduce, scale) for t in (mean, variance.sqrt())))


def _seed(generator: torch.Generator | None) -> int:
    generator = generator_or_fresh(generator)
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def _projected(
    side: Source,
    reduce: str,
    directions: int,
    seed: int,
    chunk_size: int | None,
) -> Float[Tensor, "k n m"]:
    """The products of every gradient with every direction; of the summed outputs for "sum"."""
    chosen = side.found.parameters
    chunk = chunk_size or chunk_length([], 1, _TWICE * side.found.saved_bytes, 1)
    parts, start = [], 0
    for part in chunks(side.x, chunk):
        outputs, push = pushing_forward(side.model, chosen, part)
        side.company.check(outputs, start)
        start += batch_size(part)
        columns = [push(_signs(chosen, seed + t)) for t in range(directions)]
        parts.append(torch.stack(columns, dim=2).to(side.found.dtype))
    whole = torch.cat(parts)
    return (whole.sum(1, keepdim=True) if reduce == "sum" else whole).transpose(0, 1)


def _signs(chosen: Mapping[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """A direction of plus and minus ones, the same for every chunk and on every device."""
    # on the CPU, from the seed alone: drawn anew for each chunk in place of being kept, and both
    # sides of a kernel must meet the same directions
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(2, p.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1).to(p)
        for name, p in chosen.items()
    }


def _of_pairs(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (k1 n1, k2 n2) over directions of products, and that of their squares."""
    left, right, m = one.flatten(0, 1), two.flatten(0, 1), one.shape[2]
    return left @ right.T / m, left.square() @ right.square().T / m


def _of_outputs(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The same (n1, n2) of the products' means over outputs."""
    k, _, m = one.shape
    mean = square = one.new_zeros(one.shape[1], two.shape[1])
    for t in range(m):
        # The outputs of one direction share its signs, so their products are not independent: the
        # error is taken from the mean over outputs, direction by direction, and not from all k m
        # products.
        product = one[:, :, t].T @ two[:, :, t] / k
        mean, square = mean + product, square + product.square()
    return mean / m, square / m


def _shaped(entries: Tensor, one: Tensor, two: Tensor, reduce: str, scale: float) -> Tensor:
    entries = entries * scale**2
    if reduce != "full":
        return entries
    (k, n1, _), n2 = one.shape, two.shape[1]
    return entries.view(k, n1, k, n2).permute(1, 3, 0, 2)
