"""What the loop does at every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from grokscope.training.loop import forget_gradients


class Counting(torch.optim.SGD):
    """Clears gradients in a way of its own, and counts how often."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.cleared += 1
        super().zero_grad(set_to_none)


def clears_by_itself(parameters: list[nn.Parameter]) -> Counting:
    return Counting(parameters, lr=0.1)


def clears_by_an_attribute(parameters: list[nn.Parameter]) -> Counting:
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    optimizer.cleared, clear = 0, optimizer.zero_grad  # type: ignore[attr-defined]

    def zero_grad(set_to_none: bool = True) -> None:
        optimizer.cleared += 1  # type: ignore[attr-defined]
        clear(set_to_none)

    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return optimizer  # type: ignore[return-value]


@pytest.mark.parametrize("build", [clears_by_itself, clears_by_an_attribute])
def test_an_optimizer_clears_gradients_in_its_own_way(
    build: Callable[[list[nn.Parameter]], Counting],
) -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = build(parameters)
    parameters[0].grad = torch.ones(2)
    forget_gradients(optimizer)
    assert optimizer.cleared == 1
    assert parameters[0].grad is None


def test_gradients_of_every_group_are_cleared() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters])
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    forget_gradients(optimizer)
    assert [parameter.grad for parameter in parameters] == [None, None]
