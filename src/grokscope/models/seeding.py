"""Initialization from a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_initialization(seed: int | None) -> Iterator[None]:
    """Modules built inside draw their parameters from ``seed``; None changes nothing.

    The global random state is afterwards what it was before. Parameters are drawn on the CPU, so
    that a seed means the same numbers on every device; move the module afterwards.
    """
    if seed is None:
        yield
        return
    # Not torch.manual_seed: that would reseed the accelerators too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
