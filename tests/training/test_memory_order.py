"""The order in memory of convolutions' weights while they are trained."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import grokscope as gs
from grokscope.methods import Method, Networks

fit_module = importlib.import_module("grokscope.training.fit")
X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
Strides = set[tuple[tuple[int, ...], tuple[int, ...]]]


def network(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    # no bias: BatchNorm cancels it, and Adam makes steps of the rounding that is its gradient
    body = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*body, *last, nn.Linear(4 * 8 * 8, 3))


class Viewed(nn.Module):
    """Takes a view, as many models do, which tensors in another order do not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class Chance(nn.Module):
    """Multiplies by one and a number of a generator that is not PyTorch's, in training."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * (1 + self.draw() if self.training else 1)


class OneOfOnesOwn(Method):
    """Reads gradients by a view, which those in another order do not have."""

    def filter_gradients(self, step: int, networks: Networks) -> None:
        for parameter in networks.trained:
            assert parameter.grad is not None
            parameter.grad.view(len(parameter.grad), -1).mul_(1.0)


FIRST, LAST = (27, 9, 3, 1), (27, 1, 9, 3)  # strides of a weight of 3 channels and 3 x 3


def trained(model: nn.Module, methods: list[Method] | None = None, **settings: Any) -> Strides:
    """How the first weight and its gradient lie, whenever it gets one in a step."""
    strides: Strides = set()

    def note(weight: Tensor) -> None:
        assert weight.grad is not None
        strides.add((weight.stride(), weight.grad.stride()))

    noting = next(model.parameters()).register_post_accumulate_grad_hook(note)
    how = {"lr": 0.01, "batch_size": 8, "max_steps": 6, "device": "cpu"} | settings
    gs.fit(model, (X, Y, X, Y), methods=methods or [gs.GrokAlign(0.01)], **how)
    noting.remove()
    return strides


def test_channels_lie_last_in_steps_and_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, usual = network(nn.Flatten()), network(nn.Flatten())
    assert trained(model) == {(LAST, LAST)}
    monkeypatch.setattr(fit_module, "gaining", lambda model, x: ())
    assert trained(usual) == {(FIRST, FIRST)}
    for parameter in model.parameters():
        assert parameter.is_contiguous()
        assert parameter.grad is None or parameter.grad.is_contiguous()
    # the trial run before has moved no running statistic
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_fused_optimizer_goes_on_with_the_gradients_left() -> None:
    # it goes through a weight and its gradient as they lie in memory
    model = network(nn.Flatten())
    trained(model)
    left = [
        parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
    ]
    other = copy.deepcopy(model)
    for parameter, gradient in zip(other.parameters(), left, strict=True):
        parameter.grad = gradient.contiguous()
    for one in (model, other):
        optimizer = torch.optim.AdamW(one.parameters(), 0.01, fused=True)
        optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(one(X), Y).backward()
        optimizer.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def as_vector(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(nn.utils.parameters_to_vector(model.parameters()).detach().norm())


def test_what_runs_between_steps_finds_weights_as_they_lay(tmp_path: Path) -> None:
    model = network(nn.Flatten())
    monitor = gs.Monitor(model, (X, Y), measures=[as_vector], schedule=2)

    def keep(row: dict[str, Any], seconds: float) -> None:
        save_file(model.state_dict(), tmp_path / f"{row['step']}.safetensors")

    assert trained(model, monitor=monitor, on_evaluation=keep, evaluate=[0, 2, 6]) == {(LAST, LAST)}
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert len(monitor.history["as_vector"]) == 4


def test_evaluations_change_no_step() -> None:
    # moments lie with their weights, also where weights were put back for an evaluation
    often, once = network(nn.Flatten()), network(nn.Flatten())
    trained(often, evaluate=list(range(7)))
    trained(once, evaluate=[6])
    for one, two in zip(often.parameters(), once.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_interrupted_training_puts_the_weights_back() -> None:
    def interrupt(row: dict[str, Any], seconds: float) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    model = network(nn.Flatten())
    trained(model, on_evaluation=interrupt, evaluate=[0, 2])
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def one_memory() -> nn.Module:
    """A network whose parameters are views of one vector."""
    model = network(nn.Flatten())
    vector = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, model.parameters())
    return model


STAYING: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "a view of a convolution": lambda: (network(Viewed()), {}),
    "dropout": lambda: (network(nn.Dropout(0.1), nn.Flatten()), {}),
    "double precision": lambda: (network(nn.Flatten()), {"dtype": torch.float64}),
    "views of one vector": lambda: (one_memory(), {}),
    "a method of one's own": lambda: (network(nn.Flatten()), {"methods": [OneOfOnesOwn()]}),
}


@pytest.mark.parametrize("case", STAYING)
def test_weights_stay_where_they_lie(case: str) -> None:
    model, settings = STAYING[case]()
    start = next(model.parameters()).untyped_storage().data_ptr()
    assert trained(model, **settings) == {(FIRST, FIRST)}
    if "dtype" not in settings:
        assert next(model.parameters()).untyped_storage().data_ptr() == start


def test_weights_of_an_optimizer_of_ones_own_stay() -> None:
    model = network(nn.Flatten())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    assert trained(model, optimizer=optimizer, lr=1e-3) == {(FIRST, FIRST)}


def test_a_trial_draws_no_numbers() -> None:
    draws: list[float] = []

    def draw() -> float:
        draws.append(np.random.rand())
        return 0.0

    np.random.seed(3)
    assert trained(network(Chance(draw)), [gs.Grokfast()], max_steps=2) == {(LAST, LAST)}
    np.random.seed(3)
    assert draws[-2:] == list(np.random.rand(2))  # those of the steps, after that of the trial
