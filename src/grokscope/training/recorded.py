"""The settings of a training as its run directory has them, and whether others are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from grokscope.methods.base import Method
from grokscope.shown import settings_of
from grokscope.training.settings import TrainingSettings

# they say how far a training goes and what is kept of it, and not what its steps are
_FREE = ("max_steps", "stop_at", "evaluate", "keep_checkpoints", "checkpoint_seconds", "compile")


def recorded(settings: TrainingSettings, methods: Sequence[Method]) -> dict[str, Any]:
    """Settings and methods in plain values: what is no number or text by its name.

    Example:
        >>> recorded(TrainingSettings(lr=0.1), [])["lr"]
        0.1
    """
    found = {
        field.name: _plain(getattr(settings, field.name))
        for field in fields(settings)
        if field.name not in _FREE
    }
    # of a method of the user's own, what is a setting and what it counts is not known
    ours = [own for own in methods if type(own).__module__.startswith("grokscope.")]
    by_method = {
        f"{method.name}.{key}": _plain(value)
        for method in ours
        for key, value in settings_of(method).items()
    }
    return {**found, "methods": [method.name for method in methods], **by_method}


def check_recorded(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise where a training is to go on with other settings than it began with.

    Raises:
        ValueError: if a setting differs; the message names all that do.
    """
    told = [
        f"{name}={value!r} and not {now[name]!r}"
        for name, value in before.items()
        if name in now and value != now[name]
    ]
    if told:
        raise ValueError(
            f"{folder} was trained with {', '.join(told)}: go on with the same settings, or train "
            "anew in another folder"
        )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, torch.dtype):
        return str(value)
    return getattr(value, "__qualname__", type(value).__name__)  # of a function, such as a loss
