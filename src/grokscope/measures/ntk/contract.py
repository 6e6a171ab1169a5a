"""Contraction of two batches' parts into their kernel.

The kernel between r rows of n1 and n2 examples is kept as (r, n1, r, n2), so that what depends on
the examples alone, the Gram matrix of a layer's inputs, multiplies whole contiguous blocks. In
the symmetric case every unordered pair is computed once, with total weight one over both of its
places; ``symmetrize`` adds the transpose at the end, which also makes the result symmetric to the
last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.measures.ntk.window import Window

# numbers in a block that is worked on at once: it should stay in a core's cache, or fill a GPU
_BLOCK_CPU, _BLOCK_CUDA = 2**18, 2**25
# rows of gradients that are no longer halved: a matrix product of fewer is slow
_LEAST_ROWS = 64
# of the first side, whose cotangents meet those of another example together
_EXAMPLES = 4
# multiplications of a product up to which its call costs more than to copy its operands
_SMALL = 2**20


@dataclass
class Factored:
    """A term as inputs and cotangents, to be contracted with those of another batch.

    Attributes:
        a: (n, S, I) inputs, the tokens (n, S) of an embedding, or the pixels (n, H W, C) that
            ``window`` moves over.
        g: (r, n, S, O) cotangents.
        bias: whether the bias is covered, which adds one to the Gram matrix of the inputs.
        orthogonal: the cotangents are those of the model's output itself, one unit vector for
            each row, so that different rows have nothing in common.
        window: of a convolution whose patches are not formed.
    """

    a: Tensor
    g: Tensor
    bias: bool
    orthogonal: bool = False
    window: Window | None = None

    @property
    def positions(self) -> int:
        """S."""
        return self.g.shape[2]

    def of_rows(self, rows: slice) -> Factored:
        """Some of the rows."""
        return Factored(self.a, self.g[rows], self.bias, window=self.window)

    def room_for(self, count: int) -> Factored:
        """An unfilled part like this one, of ``count`` examples."""
        rows, _, positions, width = self.g.shape
        a = self.a.new_empty(count, *self.a.shape[1:])
        g = self.g.new_empty(rows, count, positions, width)
        return Factored(a, g, self.bias, window=self.window)

    def fill(self, piece: Factored, at: slice) -> None:
        """Copy the examples of ``piece`` to the places ``at``."""
        self.a[at] = piece.a
        self.g[:, at] = piece.g

    def slimmed(self) -> Factored:
        """Without the positions that no output depends on, all but the last of many models."""
        if self.window is not None:  # one is taken only where outputs depend on every position
            return self
        # one row of one example rules most positions out; only the others are looked at whole
        idle = ~self.g[0, 0].any(dim=1) if self.positions > 1 else self.g.new_zeros(0).bool()
        suspects = idle.nonzero().flatten().tolist()
        # Exact zeros alone: causal masks and last-token readouts make them. A small cotangent still
        # counts, for a kernel is a sum of products over all pairs of positions.
        drop = {s for s in suspects if not bool(self.g[:, :, s].any())}
        keep = [s for s in range(self.positions) if s not in drop] or [0]
        if len(keep) < self.positions:
            # once more, for one position that is left may turn out to have unit cotangents
            return Factored(self.a[:, keep], self.g[:, :, keep], self.bias).slimmed()
        if self.positions == 1:
            rows, width = self.g.shape[0], self.g.shape[3]
            # Behind the last layer the cotangent of output j is e_j, at every example: then g g^T
            # is the identity, and rows j and q of the kernel share nothing where they differ.
            unit = torch.eye(rows, dtype=self.g.dtype, device=self.g.device)
            same = rows == width and bool((self.g[:, :, 0] == unit[:, None]).all())
            return Factored(self.a, self.g, self.bias, orthogonal=same)
        return self


@dataclass
class Explicit:
    """A term as every row's gradient.

    Attributes:
        e: of the weight, or of all that the term covers, (r, n, p).
        bias: of the bias, (r, n, O), where it is kept apart.
    """

    e: Tensor
    bias: Tensor | None = None

    def of_rows(self, rows: slice) -> Explicit:
        """Some of the rows."""
        return Explicit(self.e[rows], None if self.bias is None else self.bias[rows])

    def of_examples(self, at: slice) -> Explicit:
        """Some of the examples."""
        return Explicit(self.e[:, at], None if self.bias is None else self.bias[:, at])

    def tensors(self) -> list[Tensor]:
        """The gradients, to be contracted one by one."""
        return [self.e] if self.bias is None else [self.e, self.bias]


Part = Factored | Explicit


@dataclass(frozen=True)
class _Tile:
    """One row of the first batch against some rows of the second, and the share it counts for."""

    j: int
    rows: slice
    q: slice
    columns: slice
    offset: int
    share: float


def add_full(
    kernel: Tensor, first: Sequence[Part], second: Sequence[Part], symmetric: bool
) -> None:
    """Add the kernel between all rows to ``kernel`` (r1, n1, r2, n2).

    Args:
        kernel: where to add, possibly a part of a larger kernel.
        first: the terms' parts for one side.
        second: the same terms' parts for the other, the same objects if symmetric.
        symmetric: leave the transposed half to ``symmetrize``.
    """
    inside: list[tuple[Factored, Factored]] = []
    for p1, p2 in zip(first, second, strict=True):
        if isinstance(p1, Explicit) and isinstance(p2, Explicit):
            for left, right in zip(p1.tensors(), p2.tensors(), strict=True):
                if symmetric:
                    _add_upper_half(kernel, left)
                else:
                    _add_products(kernel, left, right)
            continue
        assert isinstance(p1, Factored)
        assert isinstance(p2, Factored)
        if p1.positions * p2.positions > 1:
            _add_positions(kernel, p1, p2, symmetric)
        else:
            inside.append((p1, p2))
    # all terms add to a tile while it is in the cache: the kernel is the largest tensor there is,
    # and to go over it once for each term would cost more than the products
    _, n1, _, n2 = kernel.shape
    step = max(1, (_BLOCK_CUDA if kernel.is_cuda else 16 * _BLOCK_CPU) // n2)
    for start in range(0, n1, step) if inside else ():
        rows = slice(start, min(start + step, n1))
        grams = (_pair_gram(p1, p1.a[rows], p2.a) for p1, p2 in inside)
        pairs = [(*pair, gram[:, 0, :, 0]) for pair, gram in zip(inside, grams, strict=True)]
        for tile in _tiles(kernel, rows, symmetric):
            place = kernel[tile.j, tile.rows, tile.q, tile.columns]
            for p1, p2, gram in pairs:
                _add_tile(place, p1, p2, gram, tile)


def _add_upper_half(kernel: Tensor, e: Tensor) -> None:
    """Add every unordered pair of gradients ``e`` (r, n, p), in halves of halves.

    So most of the work is done in products of large matrices, which are the fastest. What lies
    together in memory, an example's rows or a row's examples, is halved last.
    """
    rows, n, _ = e.shape
    axis = 1 if (_examples_first(e) and n > 1) or rows == 1 else 0
    if rows * n <= _LEAST_ROWS or e.shape[axis] == 1:
        _add_products(kernel, e, e, alpha=0.5)
        return
    # K = [[A, B], [B^T, C]]: B whole, in one product, A and C by the same rule; what is below the
    # diagonal `symmetrize` adds. An alpha of 1/2 makes the leaves' own double count right.
    half = e.shape[axis] // 2
    parts = (slice(0, half), slice(half, None))
    places = [(part,) if axis == 0 else (slice(None), part) for part in parts]
    left, right = (e[place] for place in places)
    rows1, rows2 = kernel[places[0]], kernel[places[1]]
    _add_products(rows1[(slice(None), slice(None), *places[1])], left, right)
    _add_upper_half(rows1[(slice(None), slice(None), *places[0])], left)
    _add_upper_half(rows2[(slice(None), slice(None), *places[1])], right)


def _examples_first(e: Tensor) -> bool:
    """Whether the rows of an example lie together."""
    return e.stride(0) < e.stride(1)


def _add_products(kernel: Tensor, left: Tensor, right: Tensor, alpha: float = 1.0) -> None:
    """Add every pair of rows of gradients (r, n, p), so many at a time as fit a block."""
    axis = 1 if _examples_first(left) else 0
    block = _BLOCK_CUDA if kernel.is_cuda else 64 * _BLOCK_CPU
    step = max(1, block // kernel.select(axis, 0).numel())
    flat = _as_matrix(right, axis).T
    for start in range(0, left.shape[axis], step):
        at = slice(start, start + step)
        place, some = (kernel[:, at], left[:, at]) if axis else (kernel[at], left[at])
        product = torch.mm(_as_matrix(some, axis), flat)
        if axis:
            rows1, n1, rows2, n2 = place.shape
            product = product.view(n1, rows1, n2, rows2).permute(1, 0, 3, 2)
        place.add_(product.view(place.shape) if not axis else product, alpha=alpha)


def _as_matrix(e: Tensor, axis: int) -> Tensor:
    """Gradients (r, n, p) as (r n, p), or as (n r, p) for an axis of 1."""
    return e.transpose(0, 1).flatten(0, 1) if axis else e.flatten(0, 1)


def _tiles(kernel: Tensor, rows: slice, symmetric: bool) -> Iterator[_Tile]:
    """Tiles that cover ``rows`` of every row's block; their grams start at ``rows.start``."""
    rows1, n1, rows2, n2 = kernel.shape
    block = _BLOCK_CUDA if kernel.is_cuda else _BLOCK_CPU
    first, last, count = rows.start, rows.stop, rows.stop - rows.start
    step = max(1, min(count, block // n2))
    half = min(step, max(32, n1 // 4))
    # rows of the second side lie next to each other in memory only where the columns are all
    run = max(1, block // (step * n2)) if kernel.stride(2) == n2 else 1
    for j in range(rows1):
        for i in range(first, last, half) if symmetric else ():
            end = min(i + half, last)
            yield _Tile(j, slice(i, end), slice(j, j + 1), slice(i, end), first, 0.5)
            if end < n1:
                yield _Tile(j, slice(i, end), slice(j, j + 1), slice(end, n1), first, 1.0)
        for q in range(j + 1 if symmetric else 0, rows2, run):
            for i in range(first, last, step):
                part = slice(i, min(i + step, last))
                yield _Tile(j, part, slice(q, min(q + run, rows2)), slice(0, n2), first, 1.0)


def _add_tile(place: Tensor, first: Factored, second: Factored, gram: Tensor, tile: _Tile) -> None:
    """Add one term to ``place`` (rows, q, columns)."""
    inputs = gram[tile.rows.start - tile.offset : tile.rows.stop - tile.offset, tile.columns]
    # the cotangents of the last layer are unit vectors: their products are one or zero, known
    if first.orthogonal and second.orthogonal:
        if tile.q.start <= tile.j < tile.q.stop:
            place[:, tile.j - tile.q.start].add_(inputs, alpha=tile.share)
        return
    left = first.g[tile.j, tile.rows, 0]
    right = second.g[tile.q, tile.columns, 0].flatten(0, 1)
    products = torch.mm(left, right.T).view(place.shape)
    place.addcmul_(products, inputs.unsqueeze(1), value=tile.share)


def _add_positions(kernel: Tensor, p1: Factored, p2: Factored, symmetric: bool) -> None:
    """Add a term with several positions: some examples of the first side with those of the second.

    With A and G an example's inputs (S, I) and the cotangents (S, O) of one of its rows, the kernel
    of rows p and q of examples i and j is <A_j A_i^T G_ip, G_jq>: the Gram matrices of i with all j
    multiply its cotangents in one product for each row, and what remains is one product for each j.
    """
    rows1, n1, _, width = p1.g.shape
    rows2, n2, positions, _ = p2.g.shape
    # (j, q, S O): each of an example's rows in one piece
    others = p2.g.transpose(0, 1).contiguous().flatten(2)
    most = max(rows1, rows2) * positions * width
    limit = _BLOCK_CUDA if kernel.is_cuda else 8 * _BLOCK_CPU
    room = p2.g.new_empty(max(limit, _EXAMPLES * most))
    for some, columns in _blocks(n1, n2, symmetric):
        count = some.stop - some.start
        across = max(1, limit // (count * most))
        for left in range(columns.start, columns.stop, across):
            at = slice(left, min(left + across, columns.stop))
            grams = _pair_gram(p1, p1.a[some], p2.a[at]).flatten(2)
            spread = room[: count * rows1 * (at.stop - left) * positions * width]
            spread = spread.view(count, rows1, -1, width)
            for b, gram in enumerate(grams):
                weights = gram.T.expand(rows1, -1, -1)
                torch.bmm(weights, p1.g[:, some.start + b], out=spread[b])
            # the few rows of j from the left: the product of a few rows with more is faster than
            # the other way round
            across_rows = spread.view(count * rows1, at.stop - left, -1).transpose(0, 1)
            products = torch.bmm(others[at], across_rows.mT)
            products = products.view(-1, rows2, count, rows1)
            if symmetric and at.start == some.start:  # a pair with itself is its own transpose
                products[0] *= 0.5
            kernel[:, some, :, at] += products.permute(3, 2, 1, 0)


def _blocks(n1: int, n2: int, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Some examples of the first side and those of the second; each pair once if symmetric."""
    for start in range(0, n1, _EXAMPLES):
        stop = min(start + _EXAMPLES, n1)
        if symmetric:
            yield from ((slice(i, i + 1), slice(i, stop)) for i in range(start, stop))
        if not symmetric or stop < n2:
            yield slice(start, stop), slice(stop if symmetric else 0, n2)


def add_diagonal(
    kernel: Tensor, first: Sequence[Part], second: Sequence[Part], symmetric: bool
) -> None:
    """Add ``sum_j K_jj``, over rows j, to ``kernel`` (n1, n2); see ``add_full``."""
    n1, n2 = kernel.shape
    block = _BLOCK_CUDA if kernel.is_cuda else 4 * _BLOCK_CPU
    for p1, p2 in zip(first, second, strict=True):
        pairs = 1
        if isinstance(p1, Factored) and isinstance(p2, Factored):
            pairs = p1.positions * p2.positions
        step = max(1, min(n1, block // (n2 * pairs)))
        step = min(step, max(32, n1 // 4)) if symmetric else step
        for i in range(0, n1, step):
            rows = slice(i, min(i + step, n1))
            if symmetric:
                kernel[rows, rows] += 0.5 * _diagonal_block(p1, p2, rows, rows)
                if rows.stop < n1:
                    rest = slice(rows.stop, n1)
                    kernel[rows, rest] += _diagonal_block(p1, p2, rows, rest)
            else:
                kernel[rows] += _diagonal_block(p1, p2, rows, slice(0, n2))


def _diagonal_block(p1: Part, p2: Part, rows: slice, columns: slice) -> Tensor:
    """One term's ``sum_j K_jj`` between ``rows`` and ``columns``."""
    if isinstance(p1, Explicit) and isinstance(p2, Explicit):
        total, *others = [
            _summed_products(a[:, rows], b[:, columns])
            for a, b in zip(p1.tensors(), p2.tensors(), strict=True)
        ]
        for other in others:
            total += other
        return total
    assert isinstance(p1, Factored)
    assert isinstance(p2, Factored)
    gram = _pair_gram(p1, p1.a[rows], p2.a[columns])
    g1, g2 = p1.g[:, rows], p2.g[:, columns]
    # summed over rows before they meet the inputs: only the diagonal allows it, and it makes
    # the cost linear in the rows instead of quadratic
    products = _summed_products(g1.flatten(1, 2), g2.flatten(1, 2)).view(gram.shape)
    if p1.positions == p2.positions == 1:
        return (products * gram)[:, 0, :, 0]
    return products.mul_(gram).sum(dim=(1, 3))


def _summed_products(left: Tensor, right: Tensor) -> Tensor:
    """``sum_j left[j] right[j]^T`` of (r, m, p) and (r, n, p)."""
    together = _examples_first(left) and _examples_first(right)
    if together or left[0].numel() * right.shape[1] <= _SMALL:
        # many small products as one, for which the rows of an example are put side by side
        return torch.mm(left.transpose(0, 1).flatten(1), right.transpose(0, 1).flatten(1).T)
    total = torch.mm(left[0], right[0].T)
    for j in range(1, len(left)):
        total.addmm_(left[j], right[j].T)
    return total


def _pair_gram(term: Factored, a1: Tensor, a2: Tensor) -> Tensor:
    """Inner products (n1, S1, n2, S2) of a term's inputs, plus one for a bias."""
    if a1.ndim == 2:  # one-hot inputs, kept as tokens
        return (a1[:, :, None, None] == a2).to(term.g.dtype)
    if term.window is not None:
        gram = term.window.gram(a1, a2)
    else:
        gram = torch.mm(a1.flatten(0, 1), a2.flatten(0, 1).T)
        gram = gram.view(*a1.shape[:2], *a2.shape[:2])
    # a bias is a weight whose input is one
    return gram.add_(1.0) if term.bias else gram


def symmetrize(kernel: Tensor, block: int = 256) -> None:
    """Add to a square matrix its transpose, in place."""
    for i in range(0, len(kernel), block):
        for j in range(i, len(kernel), block):
            here, there = kernel[i : i + block, j : j + block], kernel[j : j + block, i : i + block]
            here.add_(_transposed(there))
            there.copy_(_transposed(here))


def _transposed(block: Tensor) -> Tensor:
    # between contiguous tensors a transpose is copied by tiles, several times faster
    return torch.empty_like(block.T, memory_format=torch.contiguous_format).copy_(
        block.contiguous().T
    )
