"""How much is held at once, and what does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from grokscope.measures.ntk.terms import Term

# of the two gigabytes promised: what both sides hold between passes, and what one pass may take
_HELD, _PASSING = 1_000_000_000, 400_000_000


@dataclass(frozen=True)
class Block:
    """Some rows (combinations of outputs) of some examples."""

    rows: slice
    examples: slice


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
    return None if most == "max" else int(most) - used + cached


def readable(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def grouped(terms: Sequence[Term], rows: int, examples: int, itemsize: int) -> Iterator[list[Term]]:
    """``terms`` in groups that can be held together; every group costs one more pass."""
    group: list[Term] = []
    held = 0
    for term in terms:
        size = examples * held_bytes(term, rows, itemsize)
        if group and held + size > _HELD:
            yield group
            group, held = [], 0
        group.append(term)
        held += size
    if group:
        yield group


def blocks(
    terms: Sequence[Term], rows: int, examples: int, together: int, itemsize: int
) -> list[Block]:
    """The blocks in which the parts of ``terms`` are held, one if that fits.

    Args:
        terms: held together.
        rows: r.
        examples: n of this side.
        together: n of this side and the other.
        itemsize: bytes of a number.
    """
    each = sum(held_bytes(term, rows, itemsize) for term in terms)
    if each * together <= _HELD:
        return [Block(slice(0, rows), slice(0, examples))]
    count = max(1, _HELD // (2 * each))
    step = rows if 2 * each <= _HELD else max(1, rows * _HELD // (2 * each))
    return [
        Block(slice(r, min(r + step, rows)), slice(i, min(i + count, examples)))
        for r in range(0, rows, step)
        for i in range(0, examples, count)
    ]


def chunk_length(terms: Sequence[Term], rows: int, saved_bytes: int, itemsize: int) -> int:
    """How many examples one pass takes, for the memory it needs besides what is kept."""
    each = 2 * saved_bytes + sum(_passing_bytes(term, rows, itemsize) for term in terms)
    return max(1, _PASSING // max(each, 1))


def held_bytes(term: Term, rows: int, itemsize: int) -> int:
    """Bytes that one example's part of ``term`` takes."""
    if term.form == "factored":
        return term.positions * (term.features + rows * term.width) * itemsize
    return rows * term.numel * itemsize


def _passing_bytes(term: Term, rows: int, itemsize: int) -> int:
    """Bytes that one example of ``term`` takes on the way to its part."""
    cotangents = rows * term.positions * term.width
    if term.form in ("generic", "single", "expanded"):
        return (rows + 3) * term.numel * itemsize
    if term.form == "explicit":
        return (2 * cotangents + term.positions * term.features + rows * term.numel) * itemsize
    return 2 * cotangents * itemsize


def at_once(
    terms: Sequence[Term], rows: int, examples: int, saved_bytes: int, itemsize: int
) -> int:
    """About how many bytes are held at once beyond the result."""
    held = examples * sum(held_bytes(term, rows, itemsize) for term in terms)
    chunk = min(examples, chunk_length(terms, rows, saved_bytes, itemsize))
    passing = sum(_passing_bytes(term, rows, itemsize) for term in terms)
    return min(held, _HELD) + chunk * (saved_bytes + passing)
