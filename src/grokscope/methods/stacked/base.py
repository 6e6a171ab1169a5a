"""What a training method may do to a step of several networks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from grokscope.methods.base import Method
from grokscope.methods.stacked.network import StackedNetwork

M = TypeVar("M", bound=Method)


@runtime_checkable
class StackedLoss(Protocol):
    """The loss of several networks."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the networks of each one's loss, a scalar."""

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Which outputs (S, n, k) are right (S, n), for labels or one-hot targets."""


class StackedMethod(Generic[M]):
    """A method at work on S networks: the counterpart of ``Method`` with a leading axis S.

    What it does to a network must not depend on the others and be what the method does to that
    network alone, from the same state and the same generator. The base class changes nothing.

    Args:
        methods: the method of each network, all of the same settings.
    """

    def __init__(self, methods: Sequence[M]) -> None:
        self.methods = list(methods)

    def perturb(
        self, step: int, network: StackedNetwork, x: Tensor, y: Tensor, loss: StackedLoss
    ) -> Tensor:
        """The inputs (S, n, *d) to train on at this step."""
        return x

    def penalty(
        self, step: int, network: StackedNetwork, x: Tensor, outputs: Tensor
    ) -> Tensor | None:
        """What to add to the loss of each network (S,) at this step, or None for nothing."""
        return None

    def filter_gradients(self, step: int, network: StackedNetwork) -> None:
        """Change the stacked parameters' ``.grad`` in place."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        self.methods = [self.methods[row] for row in rows]

    def write_back(self, row: int) -> None:
        """Put the state of one network into its own method, for a checkpoint of that network."""


def normal_numbers(
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Normal numbers (S, *shape): row i is what ``torch.randn(shape, generator=generators[i])`` is.

    They are drawn where the generators live and go to ``device`` in one piece.
    """
    drawn = torch.empty(len(generators), *shape, dtype=dtype, device=generators[0].device)
    for row, generator in zip(drawn.unbind(), generators, strict=True):
        row.normal_(generator=generator)
    return drawn.to(device, non_blocking=True)
