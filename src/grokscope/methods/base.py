"""What a training method may do to a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Method:
    """A method that changes training; the base class changes nothing.

    A training loop calls, in this order: ``start`` once; then at each step ``perturb`` before
    the forward pass, ``penalty`` after it, and ``filter_gradients`` between ``backward`` and the
    optimizer's step; ``finish`` once, also after an error. Steps count from 1. A method of
    strength 0 leaves every number as it would have been without it, bit for bit.
    """

    name: ClassVar[str] = "method"

    def start(self, model: nn.Module) -> None:
        """Prepare for training ``model``."""

    def perturb(
        self, step: int, model: nn.Module, x: Tensor, y: Tensor, loss: LossFunction
    ) -> Tensor:
        """The inputs to train on at this step, shape of ``x``."""
        return x

    def penalty(self, step: int, model: nn.Module, x: Tensor, outputs: Tensor) -> Tensor | None:
        """A scalar to add to the loss at this step, or None for nothing."""
        return None

    def filter_gradients(self, step: int, model: nn.Module) -> None:
        """Change the parameters' ``.grad`` in place."""

    def finish(self) -> None:
        """Undo what ``start`` attached to the model."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers and strings, without nesting."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


def gradients(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """Name, parameter and gradient of each parameter that has a gradient."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter, parameter.grad
