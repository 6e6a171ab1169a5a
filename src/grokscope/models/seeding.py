"""Initialization from a seed of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DRAWING = threading.RLock()  # a model may build another within its own initialization


@contextmanager
def seeded_initialization(seed: int | None) -> Iterator[None]:
    """Modules built inside draw their parameters from ``seed``; None changes nothing.

    The global random state is afterwards what it was before. Parameters are drawn on the CPU, so
    that a seed means the same numbers on every device; move the module afterwards. Threads take
    turns: they share the global generator that modules draw from.
    """
    if seed is None:
        yield
        return
    # Not torch.manual_seed: that would reseed the accelerators too.
    with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
