"""The kernel block by block, so that what is held at once stays within a bound.

Parts of terms are held for as many rows (combinations of outputs) and examples as fit; where both
sides do not fit whole, every block of one side meets every block of the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from grokscope.measures.batches import rows
from grokscope.measures.company import Company
from grokscope.measures.ntk.capture import Source, captured
from grokscope.measures.ntk.contract import Part, add_diagonal, add_full, symmetrize
from grokscope.measures.ntk.plan import Term, readable

# of the two gigabytes promised: what both sides hold between passes, and what one pass may take
_HELD, _PASSING = 1_000_000_000, 400_000_000


@dataclass(frozen=True)
class _Block:
    """Some rows (combinations of outputs) of some examples."""

    rows: slice
    examples: slice


@dataclass(frozen=True)
class Pairs:
    """What a kernel is between.

    Attributes:
        first: the examples of the first side.
        second: those of the second, or None if they are the same.
        directions: (r, k) combinations of the outputs, one for each row.
        summed: None for the kernel between all rows, or s for the sum of the first s rows'
            kernels with themselves.
        chunk_size: examples that go through the model at once; None chooses by memory.
    """

    first: Source
    second: Source | None
    directions: Tensor
    summed: int | None
    chunk_size: int | None

    @property
    def other(self) -> Source:
        """The second side, or the first again."""
        return self.first if self.second is None else self.second

    def kernel(self, terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
        """The kernel over ``terms``.

        Returns:
            (r, n1, r, n2) between all rows and the same again; or (n1, n2), summed, and
            (1, n1, 1, n2) of the last row alone.
        """
        num_rows, n1, n2 = len(self.directions), len(self.first), len(self.other)
        shape = (num_rows, n1, num_rows, n2) if self.summed is None else (n1, n2)
        total = self.directions.new_zeros(shape, dtype=self.first.found.dtype)
        last = total
        if self.summed is not None and self.summed < num_rows:
            last = torch.zeros_like(total)
        itemsize = total.dtype.itemsize
        together = n1 if self.second is None else n1 + n2
        for group in _grouped(terms, num_rows, together, itemsize):
            first = _blocks(group, num_rows, n1, together, itemsize)
            second = first
            if self.second is not None:
                second = _blocks(group, num_rows, n2, together, itemsize)
            self._add_group(group, first, second, total, last)
        if self.second is None:
            symmetrize(total.view(num_rows * n1, -1) if self.summed is None else total)
            if last is not total:
                symmetrize(last)
        return total, last if self.summed is None else last[None, :, None]

    def _add_group(
        self,
        group: list[Term],
        blocks1: list[_Block],
        blocks2: list[_Block],
        total: Tensor,
        last: Tensor,
    ) -> None:
        for i, one in enumerate(blocks1):
            first = self._parts(group, self.first, one)
            for j, two in enumerate(blocks2):
                # blocks below the diagonal are the transposes of those above, which `symmetrize`
                # writes
                if self.second is None and j < i:
                    continue
                # a trace sums rows with themselves: blocks of different rows have no part in it
                if self.summed is not None and one.rows != two.rows:
                    continue
                same = self.second is None and i == j
                second = first if same else self._parts(group, self.other, two)
                if self.summed is None:
                    place = total[one.rows, one.examples, two.rows, two.examples]
                    add_full(place, first, second, same)
                    continue
                # rows up to ``summed`` count for the sum; a further one is the check's own
                for kernel, begin, end in (
                    (total, one.rows.start, min(one.rows.stop, self.summed)),
                    (last, max(one.rows.start, self.summed), one.rows.stop),
                ):
                    if begin < end:
                        own = slice(begin - one.rows.start, end - one.rows.start)
                        left = [part.of_rows(own) for part in first]
                        right = left if same else [part.of_rows(own) for part in second]
                        add_diagonal(kernel[one.examples, two.examples], left, right, same)

    def _parts(self, group: list[Term], side: Source, block: _Block) -> list[Part]:
        directions = self.directions[block.rows]
        chunk = self.chunk_size or chunk_length(
            group, len(directions), side.found.saved_bytes, side.found.dtype.itemsize
        )
        return captured(side.examples(block.examples), group, directions, chunk)

    def restricted(self, first: list[int], second: list[int]) -> Pairs:
        """The same between some examples of either side, in another order."""
        two = None if self.second is None else _some(self.second, second)
        return replace(self, first=_some(self.first, first), second=two)


def _some(side: Source, index: list[int]) -> Source:
    # their company is known by then, and none of them stands where it did
    nobody = Company(side.model, side.x, [], side.company.name, side.found.outputs[:0])
    return replace(side, x=rows(side.x, index), company=nobody)


def _grouped(
    terms: Sequence[Term], num_rows: int, examples: int, itemsize: int
) -> Iterator[list[Term]]:
    """``terms`` in groups that can be held together; every group costs one more pass."""
    group: list[Term] = []
    held = 0
    for term in terms:
        size = examples * term.held_bytes(num_rows, itemsize)
        if group and held + size > _HELD:
            yield group
            group, held = [], 0
        group.append(term)
        held += size
    if group:
        yield group


def _blocks(
    terms: Sequence[Term], num_rows: int, examples: int, together: int, itemsize: int
) -> list[_Block]:
    """The blocks in which the parts of ``terms`` are held, one if that fits.

    Args:
        terms: held together.
        num_rows: r.
        examples: n of this side.
        together: n of this side and the other.
        itemsize: bytes of a number.
    """
    each = sum(term.held_bytes(num_rows, itemsize) for term in terms)
    if each * together <= _HELD:
        return [_Block(slice(0, num_rows), slice(0, examples))]
    # half the bound each: a block of either side is held while the other's go by
    count = max(1, _HELD // (2 * each))
    step = num_rows if 2 * each <= _HELD else max(1, num_rows * _HELD // (2 * each))
    return [
        _Block(slice(r, min(r + step, num_rows)), slice(i, min(i + count, examples)))
        for r in range(0, num_rows, step)
        for i in range(0, examples, count)
    ]


def chunk_length(terms: Sequence[Term], num_rows: int, saved_bytes: int, itemsize: int) -> int:
    """How many examples one pass takes, for the memory it needs besides what is kept."""
    each = 2 * saved_bytes + sum(term.passing_bytes(num_rows, itemsize) for term in terms)
    return max(1, _PASSING // max(each, 1))


def bytes_beyond_result(
    terms: Sequence[Term], num_rows: int, examples: int, saved_bytes: int, itemsize: int
) -> int:
    """About how many bytes are held at once beyond the result."""
    held = examples * sum(term.held_bytes(num_rows, itemsize) for term in terms)
    chunk = min(examples, chunk_length(terms, num_rows, saved_bytes, itemsize))
    passing = sum(term.passing_bytes(num_rows, itemsize) for term in terms)
    return min(held, _HELD) + chunk * (saved_bytes + passing)


def check_fits(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Raise ``MemoryError`` if a kernel of ``shape`` exceeds the free memory of ``device``."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    free = free_bytes(device)
    if free is not None and size > free:
        raise MemoryError(
            f"a kernel of shape {shape} in {dtype} takes {readable(size)} and {readable(free)} "
            f"are free on {device}; pass fewer examples, or reduce='trace' or 'sum'"
        )


def free_bytes(device: torch.device) -> int | None:
    """Bytes free on ``device``; None where the system does not say."""
    if device.type == "cuda":
        # what the allocator keeps for itself is free to us, though the driver calls it taken
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    found = [n for n in (_available(), _left_in_group()) if n is not None]
    return min(found) if found else None


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except OSError:
        names = os.sysconf_names if hasattr(os, "sysconf") else {}
        if "SC_PHYS_PAGES" not in names:
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_group() -> int | None:
    """What the control group, of a container for example, still grants."""
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text("utf-8").strip()
        used = int((group / "memory.current").read_text("utf-8"))
        cached = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text("utf-8").splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):
        return None
    # pages of files that are not in use count as used, and are given back when asked for
    return None if most == "max" else int(most) - used + cached
