"""Forward hooks that only look, which leave a model what it is to a measure."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# where a module keeps its hooks
HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ObservingHook:
    """A forward hook that only looks: a model that carries it is still taken for a chain."""


def only_observed(hooks: Mapping[int, Any]) -> bool:
    """Whether all hooks of a module's table are such."""
    return not hooks or all(isinstance(hook, ObservingHook) for hook in hooks.values())


class _Measuring(threading.local):
    """Whether this thread is inside of a measure: another may train meanwhile."""

    now: bool = False


_MEASURING = _Measuring()


@contextmanager
def measuring() -> Iterator[None]:
    """Mark the forward passes inside as a measure's, which hooks that watch a training let by."""
    before, _MEASURING.now = _MEASURING.now, True
    try:
        yield
    finally:
        _MEASURING.now = before


def is_measuring() -> bool:
    """Whether a forward pass that runs now is a measure's."""
    return _MEASURING.now
