"""Which modules are in training mode, and which a user has left in evaluation mode."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Put every module back into the mode that it had."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Run models in evaluation mode inside, in the modes of before afterwards."""
    with modes_kept(*models):
        for model in models:
            model.eval()
        yield


def resting(models: Sequence[nn.Module]) -> set[nn.Module]:
    """The modules in evaluation mode within a model that is in training mode.

    A layer whose statistics are kept, such as a BatchNorm of a pretrained body, is left so.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> _ = model[1].eval()
        >>> [type(module).__name__ for module in resting([model])]
        ['BatchNorm1d']
        >>> resting([model.eval()])
        set()
    """
    return {
        module
        for model in models
        if model.training
        for module in model.modules()
        if not module.training
    }


def into_training(model: nn.Module, but: Collection[nn.Module] = ()) -> None:
    """Put a model into training mode, but for those modules."""
    model.train()
    for module in but:
        module.training = False
