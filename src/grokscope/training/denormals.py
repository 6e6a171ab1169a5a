"""Numbers too small for a full mantissa, which cost a CPU many times what others do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

# A second moment that is flushed changes the root by 1e-19 at most: beside an eps as large as this
# less than float32 can tell.
_LEAST_EPS = 1e-12


@contextmanager
def flushed_denormals(optimizer: Optimizer) -> Iterator[None]:
    """Have this thread compute denormal numbers, those below 1.2e-38 in float32, as zero.

    Where a network has memorized, gradients of no size leave moments of Adam that shrink at every
    step and end there; each operation on one then takes a CPU a hundred cycles. Nothing that could
    be told from zero beside the optimizer's eps is lost; where that is below 1e-12, none is zero.
    """
    counts = any(group.get("eps", 1.0) < _LEAST_EPS for group in optimizer.param_groups)
    before = counts or _flushes()
    if before or not torch.set_flush_denormal(True):  # as it is; or no such processor
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _flushes() -> bool:
    """Whether this thread does so already; PyTorch does not tell.

    Example:
        >>> _flushes()
        False
    """
    smallest = torch.full((), torch.finfo(torch.float32).tiny, dtype=torch.float32, device="cpu")
    return not bool(smallest / 2)
