"""The memory that tensors on a CPU free."""

from __future__ import annotations

import ctypes
import os
import sys

# of glibc's malloc.h: kept is a gigabyte at the end of the heap, on which all blocks lie but those
# of a quarter of a gigabyte and more
_OPTIONS = {"M_TRIM_THRESHOLD": (-1, 2**30), "M_MMAP_THRESHOLD": (-3, 2**28)}
# by which users say themselves what malloc does
_SAID = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, from now on, for what it needs next.

    The C library of most Linux systems, glibc, gives large blocks back to the system when they are
    freed. A training step on a CPU frees its activations and the next one needs as many: then every
    page of them is asked for and zeroed anew, which can take a third of the time of a step of a
    convolutional network and next to none of a small perceptron (``benchmarks/bench_memory.py``).
    With this call up to a gigabyte is kept. Numbers do not change. Experiments (``grokscope run``)
    do this by themselves.

    Returns:
        Whether it was done: not without glibc, and not where the environment says what to do
        (``MALLOC_TRIM_THRESHOLD_`` and the like).

    Example:
        >>> import grokscope as gs
        >>> kept = gs.keep_freed_memory()  # once, before the training loop
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SAID):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(number, size) == 1 for number, size in _OPTIONS.values())
