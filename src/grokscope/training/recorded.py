"""The settings of a training as its run directory has them, and whether others are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from grokscope.data import Dataset
from grokscope.imports import is_ours
from grokscope.methods.base import Method
from grokscope.shown import settings_of
from grokscope.training.settings import TrainingSettings

# entries of an optimizer's group that change no step
_NO_SETTING = ("params", "param_names", "initial_lr", "fused", "foreach", "capturable")
# they say how far a training goes and what is kept of it, and not what its steps are
_FREE = ("max_steps", "stop_at", "evaluate", "keep_checkpoints", "checkpoint_seconds", "compile")


def recorded(
    settings: TrainingSettings, methods: Sequence[Method], data: Dataset, model: nn.Module
) -> dict[str, Any]:
    """Settings, methods, data and network in plain values: what is no number or text by its name.

    Example:
        >>> import grokscope as gs
        >>> data = gs.load_data("digits", train_size=90, test_size=40)
        >>> found = recorded(TrainingSettings(lr=0.1), [], data, gs.MLP(64, [8], 10))
        >>> found["lr"], found["parameters"], found["train_size"]
        (0.1, 610, 90)
    """
    found = {
        field.name: _plain(getattr(settings, field.name))
        for field in fields(settings)
        if field.name not in _FREE
    }
    if settings.decay != "none":  # it ends with the last step
        found["max_steps"] = settings.max_steps
    found |= {"train_size": len(data.train_y), "test_size": len(data.test_y)}
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(settings.optimizer, Optimizer):
        found |= {
            f"optimizer.param_groups[{index}].{name}": _plain(value)
            for index, group in enumerate(settings.optimizer.param_groups)
            for name, value in group.items()
            if name not in _NO_SETTING and not torch.is_tensor(value)
        }
    # of a method of the user's own, what is a setting and what it counts is not known
    ours = [own for own in methods if is_ours(own)]
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
