"""Forward hooks that only look, which leave a model what it is to a measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# where a module keeps its hooks
HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ObservingHook:
    """A forward hook that only looks: a model that carries it is still taken for a chain."""


def only_observed(hooks: Mapping[int, Any]) -> bool:
    """Whether all hooks of a module's table are such."""
    return not hooks or all(isinstance(hook, ObservingHook) for hook in hooks.values())
