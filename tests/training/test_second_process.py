"""A monitor that measures in a second process: the same numbers, later."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.runs import History

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(12, 5, generator=GENERATOR)
Y = torch.arange(12) % 3
IMAGES = torch.randn(12, 1, 6, 6, generator=GENERATOR)
IDS = torch.randint(0, 7, (12, 4), generator=GENERATOR)
MASK = torch.ones(12, 4)


class Attention(nn.Module):
    """A small network fed a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(7, 6), nn.Linear(6, 3)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.read((self.attend(x, x, x)[0] * mask[..., None]).mean(1))


class Recurrent(nn.Module):
    """An LSTM whose last state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.read = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.lstm(x[..., None])[0][:, -1])


def largest_output(model: nn.Module, x: Any, _: Tensor) -> Tensor:
    return model(x).amax(1)


def by_name(model: nn.Module, x: Any, _: Tensor) -> Tensor:
    return model(**x).amax(1)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mlp, with a measure of one's own": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
        X,
        {"measures": ["jacobian_norm", "weight_norm", largest_output]},
    ),
    "cnn with BatchNorm": (convolutional, IMAGES, {"pictures": 2}),
    "lstm": (Recurrent, X, {}),
    "transformer fed a dictionary": (
        Attention, {"ids": IDS, "mask": MASK}, {"measures": ["weight_norm", by_name]},
    ),
    "kernel distances": (
        lambda: gs.MLP(5, [6], 3, seed=0),
        X,
        {"measures": ["jacobian_norm", gs.NTKDistance(6)]},
    ),
    "compiled": (
        lambda: torch.compile(gs.MLP(5, [6], 3, seed=0), backend="eager"), X, {},
    ),
}  # fmt: skip


def trained(name: str, *, asynchronous: bool, steps: int = 9) -> tuple[gs.Monitor, nn.Module]:
    """A loop of one's own with a monitor in it, and figures of one's own in between."""
    build, x, options = CASES[name]
    torch.manual_seed(2)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.Monitor(
        model, (x, Y), schedule=3, asynchronous=asynchronous, **copy.deepcopy(options)
    ) as monitor:
        for step in range(steps + 1):
            row = monitor.step(step, own=step / 2)
            assert asynchronous is (row is None) or step % 3
            loss = nn.functional.cross_entropy(model(**x) if isinstance(x, dict) else model(x), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return monitor, model


def assert_same(one: History, other: History, rounding: float = 0.0) -> None:
    assert one.names == other.names
    for name in one.names:
        np.testing.assert_allclose(one[name], other[name], rtol=rounding, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_measuring_at_once(name: str) -> None:
    late, moved = trained(name, asynchronous=True)
    at_once, model = trained(name, asynchronous=False)
    # a compiled network is measured as it was written there
    assert_same(late.history, at_once.history, 1e-6 if name == "compiled" else 0.0)
    assert sorted(late.archive.kept) == sorted(at_once.archive.kept)  # type: ignore[attr-defined]
    for kept, arrays in at_once.archive.kept.items():  # type: ignore[attr-defined]
        for key, value in arrays.items():
            assert torch.equal(late.archive.arrays(kept)[key], value)  # type: ignore[index]
    for own, other in zip(moved.parameters(), model.parameters(), strict=True):
        assert torch.equal(own, other)  # training goes on undisturbed


class Scaled(nn.Module):
    """A network whose forward pass reads a plain attribute, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        self.alpha, self.shifts = 1.0, [torch.zeros(5)]

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * self.layers(x + self.shifts[0])


def _alpha(model: Any) -> None:
    model.alpha /= 2


def _shift(model: Any) -> None:
    model.shifts[0] += 1.0


def _append(model: Any) -> None:
    model.layers.append(nn.Linear(3, 3))


def _resize(model: Any) -> None:
    model.layers[0], model.layers[2] = nn.Linear(5, 8), nn.Linear(8, 3)


def _tie(model: Any) -> None:
    model.layers[2].weight = nn.Parameter(model.layers[0].weight.detach()[:3].repeat(1, 2)[:, :6])


def _hook(model: Any) -> None:
    model.layers[0].register_forward_hook(lambda layer, inputs, output: 2 * output)


def _other_class(model: Any) -> None:
    model.layers[1].__class__ = nn.Sigmoid


def _method(model: Any) -> None:
    gs.GrokAlign(1e-3).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))


CHANGES = [
    _alpha, _shift, _append, _resize, _tie, _hook, _other_class, _method,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_becomes_another_is_measured_as_it_is(change: Any) -> None:
    histories = []
    for asynchronous in (False, True):
        torch.manual_seed(3)
        model = Scaled()
        layers = model.layers

        def held(model: nn.Module, x: Tensor, y: Tensor, layers: Any = layers) -> Tensor:
            return layers[-1].weight.norm()

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = gs.Monitor(
            model, (X, Y), ["jacobian_norm", "weight_norm", held], asynchronous=asynchronous
        )
        with monitor.attach(optimizer):
            for step in range(4):
                if step == 2:
                    change(model)
                nn.functional.cross_entropy(model(X), Y).backward()
                optimizer.step()
        histories.append(monitor.history)
    assert_same(*histories)


def test_a_network_that_can_no_longer_be_sent_is_named() -> None:
    model = gs.MLP(5, [6], 3, seed=0)
    monitor = gs.Monitor(model, (X, Y), asynchronous=True)
    monitor.step(0)
    model.lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match=r"asynchronous=True sends model .* use asynchronous=False"):
        monitor.step(1)
    monitor.finish()


def test_a_state_holds_what_was_still_being_measured() -> None:
    late, _ = trained("kernel distances", asynchronous=True)
    halfway, network = _half()
    state = halfway.state_dict()
    halfway.finish()
    again = gs.Monitor(network, (X, Y), ["jacobian_norm", gs.NTKDistance(6)], schedule=3,
                       asynchronous=True)  # fmt: skip
    again.load_state_dict(state)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(5, 10):
        again.step(step, own=step / 2)
        _train(network, optimizer)
    again.close()
    assert_same(again.history, late.history)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()


def _half() -> tuple[gs.Monitor, nn.Module]:
    torch.manual_seed(2)
    model = gs.MLP(5, [6], 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gs.Monitor(model, (X, Y), ["jacobian_norm", gs.NTKDistance(6)], schedule=3,
                         asynchronous=True)  # fmt: skip
    for step in range(5):
        monitor.step(step, own=step / 2)
        _train(model, optimizer)
    return monitor, model


def test_rows_come_in_order_whatever_is_still_being_measured() -> None:
    logged: list[int] = []
    model = gs.MLP(5, [6], 3, seed=0)
    monitor = gs.Monitor(
        model, (X, Y), schedule=2, asynchronous=True, log=lambda row, step: logged.append(step)
    )
    for step in range(7):
        monitor.step(step, own=1.0)
        assert list(monitor.history.steps) == sorted(monitor.history.steps)
    monitor.wait()
    assert list(monitor.history.steps) == [0, 1, 2, 3, 4, 5, 6]
    assert logged == [0, 2, 4, 6]
    monitor.finish()


def test_an_error_of_a_measure_is_raised_here() -> None:
    def broken(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise ZeroDivisionError("no such measure")

    monitor = gs.Monitor(gs.MLP(5, [6], 3, seed=0), (X, Y), [broken], asynchronous=True)
    monitor.step(0)
    with pytest.raises(ZeroDivisionError, match="no such measure"):
        monitor.wait()
    monitor.finish()


def test_a_process_that_is_killed_says_so_and_loses_no_earlier_row() -> None:
    def process_id(model: nn.Module, x: Tensor, y: Tensor) -> float:
        return float(os.getpid())

    monitor = gs.Monitor(gs.MLP(5, [6], 3, seed=0), (X, Y), [process_id], schedule=1,
                         asynchronous=True)  # fmt: skip
    monitor.step(0)
    monitor.wait()
    other = int(monitor.history["process_id"][0])
    assert other != os.getpid()
    os.kill(other, signal.SIGKILL)

    def go_on() -> None:
        for step in range(1, 20):
            monitor.step(step)
        monitor.wait()

    with pytest.raises(RuntimeError, match="killed or out of memory"):
        go_on()
    assert monitor.history.steps[0] == 0
    assert len(monitor.history) >= 1


def test_what_cannot_be_sent_is_named() -> None:
    model = gs.MLP(5, [6], 3, seed=0)
    model.lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match=r"asynchronous=True sends model .* use asynchronous=False"):
        gs.Monitor(model, (X, Y), asynchronous=True).step(0)


def test_fit_refuses_rows_that_come_late() -> None:
    model = gs.MLP(64, [4], 10, seed=0)
    data = gs.load_data("digits", train_size=50)
    monitor = gs.Monitor(model, (data.train_x, data.train_y), asynchronous=True)
    with pytest.raises(ValueError, match="asynchronous=False"):
        gs.fit(model, data, monitor=monitor, max_steps=1)
