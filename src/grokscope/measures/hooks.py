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


class _Passes(threading.local):
    """Whether the passes of this thread are no training's: another thread may train meanwhile."""

    outside: bool = False


_PASSES = _Passes()


@contextmanager
def outside_training() -> Iterator[None]:
    """Have hooks that watch a training let the forward passes inside by, as a measure's."""
    before, _PASSES.outside = _PASSES.outside, True
    try:
        yield
    finally:
        _PASSES.outside = before


def is_outside_training() -> bool:
    """Whether a forward pass that runs now is a measure's or a penalty's own."""
    return _PASSES.outside
