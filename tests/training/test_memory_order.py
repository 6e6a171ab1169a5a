"""The order in memory of convolutions' weights while they are trained."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.methods import Method, Networks

fit_module = importlib.import_module("grokscope.training.fit")
X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Seen(Method):
    """Notes how the first weight and its gradient lie at each step."""

    def __init__(self) -> None:
        self.strides: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()

    def filter_gradients(self, step: int, networks: Networks) -> None:
        weight = next(networks.models[0].parameters())
        assert weight.grad is not None
        self.strides.add((weight.stride(), weight.grad.stride()))


def network(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    # no bias: BatchNorm cancels it, and Adam makes steps of the rounding that is its gradient
    body = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*body, *last, nn.Linear(4 * 8 * 8, 3))


class Viewed(nn.Module):
    """Takes a view, as many models do, which tensors in another order do not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


FIRST, LAST = (27, 9, 3, 1), (27, 1, 9, 3)  # strides of a weight of 3 channels and 3 x 3


def trained(model: nn.Module, **settings: Any) -> Seen:
    seen = Seen()
    how = {"lr": 0.01, "batch_size": 8, "max_steps": 6, "device": "cpu"} | settings
    gs.fit(model, (X, Y, X, Y), methods=[gs.GrokAlign(0.01), seen], **how)
    return seen


def test_channels_lie_last_in_training_and_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, usual = network(nn.Flatten()), network(nn.Flatten())
    assert trained(model).strides == {(LAST, LAST)}
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    monkeypatch.setattr(fit_module, "channels_last", lambda model, x: nullcontext())
    assert trained(usual).strides == {(FIRST, FIRST)}
    # the trial run before has moved no running statistic
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_an_interrupted_training_puts_the_weights_back() -> None:
    def interrupt(row: dict[str, Any], seconds: float) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    model = network(nn.Flatten())
    trained(model, on_evaluation=interrupt, evaluate=[0, 2])
    assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize(
    "case", ["a view of a convolution", "dropout", "double precision", "an optimizer of one's own"]
)
def test_weights_stay_where_they_lie(case: str) -> None:
    settings: dict[str, Any] = {}
    model = network(nn.Flatten())
    if case == "a view of a convolution":
        model = network(Viewed())
    elif case == "dropout":
        model = network(nn.Dropout(0.1), nn.Flatten())
    elif case == "double precision":
        settings = {"dtype": torch.float64}
    elif case == "an optimizer of one's own":
        settings = {"optimizer": torch.optim.AdamW(model.parameters(), lr=0.01), "lr": 1e-3}
    assert trained(model, **settings).strides == {(FIRST, FIRST)}
