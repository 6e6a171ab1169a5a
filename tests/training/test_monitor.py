"""The monitor sees what is there and disturbs nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.training.archive import Archive
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe
from grokscope.training.measurements import DEFAULT_MEASURES, summary

X, Y = torch.randn(30, 6, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3


def nosy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A measure that disturbs all it can: draws numbers and computes gradients."""
    torch.rand(100)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 3)
    )


def trained(monitored: bool) -> tuple[Tensor, Tensor]:
    model = network()
    monitor = gs.Monitor(
        model, (X, Y), [*DEFAULT_MEASURES, nosy], schedule=1, test=(X, Y), pictures=3
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        if monitored:
            monitor.step(step)
        optimizer.step()
    state = torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])
    return state, torch.get_rng_state()


def test_training_is_bit_identical_with_and_without_a_monitor() -> None:
    (with_state, with_rng), (without_state, without_rng) = trained(True), trained(False)
    assert torch.equal(with_state, without_state)
    assert torch.equal(with_rng, without_rng)


def shift(model: nn.Module, x: Tensor, y: Tensor) -> float:
    for own in model.parameters():
        own.data.add_(0.1)
    return 1.0


def sharpness(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        for sign in (1, -1):
            for own in model.parameters():
                own.add_(sign * torch.ones_like(own) / 3)
            loss = nn.functional.cross_entropy(model(x), y)
    return loss


def replaced(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model[0].weight = nn.Parameter(torch.ones(9, 6))
    model.register_buffer("of_mine", torch.ones(2))
    model[2] = nn.Identity()
    return 1.0


def failing(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model[0].weight.data.add_(1)
    raise ArithmeticError("of the measure")


def drawing(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return np.random.rand() + float(torch.rand(()))


class Shifting(MeasureWithMemory):
    name = "shifting"

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        return {"shifting": shift(probe.model, probe.x, torch.ones(1))}


OWN = [shift, sharpness, replaced, failing, drawing, Shifting()]


@pytest.mark.parametrize("measure", OWN, ids=lambda own: getattr(own, "__name__", "a class"))
def test_a_measure_of_ones_own_leaves_the_training_bit_for_bit_as_it_was(
    measure: Callable[..., Tensor | float],
) -> None:
    model = network()
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    drawn = np.random.get_state(), torch.get_rng_state()
    # of two measures the later one measures the network as it is
    monitor = gs.Monitor(model, (X, Y), [measure, "weight_norm"])
    norm = gs.Monitor(model, (X, Y), ["weight_norm"]).step(0)
    if measure is failing:
        with pytest.raises(ArithmeticError):
            monitor.step(0)
    else:
        assert monitor.step(0)["weight_norm"] == norm["weight_norm"]  # type: ignore[index]
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert isinstance(model[2], nn.ReLU)
    np.testing.assert_equal(np.random.get_state(), drawn[0])
    assert torch.equal(torch.get_rng_state(), drawn[1])


def test_fit_is_bit_identical_with_and_without_a_monitor() -> None:
    histories = []
    for monitored in (True, False):
        model = network()
        monitor = gs.Monitor(model, (X, Y), schedule=1) if monitored else None
        result = gs.fit(model, (X, Y, X, Y), monitor=monitor, max_steps=15, lr=0.01, device="cpu")
        histories.append(result.history)
    for name in ("train_loss", "test_loss"):
        ours = histories[0][name][[int(s) in histories[1].steps for s in histories[0].steps]]
        assert ours.tolist() == histories[1][name].tolist()


def test_the_figures_are_those_of_the_measures() -> None:
    model = network().eval()
    monitor = gs.Monitor(model, (X, Y), DEFAULT_MEASURES, pictures=2)
    row = monitor.step(0)
    alignment = gs.centroid_alignment(model, X)
    assert row["centroid_alignment"] == pytest.approx(float(alignment.mean()))
    assert row["centroid_alignment_min"] == pytest.approx(float(alignment.min()))
    assert row["jacobian_norm_max"] == pytest.approx(float(gs.jacobian_norm(model, X).max()))
    assert row["jacobian_pc1"] == pytest.approx(float(gs.jacobian_pc1(model, X).mean()), rel=1e-5)
    squares = sum(float(parameter.detach().square().sum()) for parameter in model.parameters())
    assert row["weight_norm"] == pytest.approx(squares**0.5)
    pictures = monitor.archive.arrays("step-00000000")
    assert torch.allclose(pictures["centroids"], gs.centroids(model, X[:2]), atol=1e-6)


def test_it_measures_when_due_and_not_otherwise() -> None:
    monitor = gs.Monitor(network(), (X, Y), ["weight_norm"], schedule=[2, 5])
    assert [step for step in range(9) if monitor.step(step) is not None] == [0, 2, 5]
    assert monitor.due is None
    monitor = gs.Monitor(network(), (X, Y), ["weight_norm"], schedule=10)
    assert [step for step in (3, 8, 14, 17, 33) if monitor.step(step) is not None] == [3, 14, 33]


def test_figures_of_ones_own_and_functions_join_the_history() -> None:
    def sharpness(model: nn.Module, x: Tensor, y: Tensor) -> float:
        return 7.0

    monitor = gs.Monitor(network(), (X, Y), [sharpness], schedule=2)
    for step in range(4):
        monitor.step(step, test_accuracy=step / 10)
    assert monitor.history["test_accuracy"].tolist() == [0.0, 0.1, 0.2, 0.3]
    assert monitor.history["sharpness"][::2].tolist() == [7.0, 7.0]


def test_a_mean_leaves_out_what_does_not_exist() -> None:
    row = summary("pc1", torch.tensor([0.5, float("nan"), 1.0]))
    assert row == {"pc1": 0.75, "pc1_min": 0.5, "pc1_max": 1.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"measures": ["centroid_alignmnt"]}, "did you mean 'centroid_alignment'"),
        ({"measures": ["weight_norm", "weight_norm"]}, "measures holds 'weight_norm' twice"),
        ({"probe": (X[:0], Y[:0])}, "probe is empty"),
        ({"probe": (X, Y[:3])}, "30 inputs but 3 labels"),
        ({"schedule": "often"}, "schedule must be"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gs.Monitor(network(), **{"probe": (X, Y), **arguments})


def test_a_phase_before_any_figure_is_refused() -> None:
    monitor = gs.Monitor(network(), (X, Y))
    with pytest.raises(ValueError, match="training accuracy"):
        monitor.phase()


def test_the_norm_of_the_last_layer_is_that_of_its_weight_and_bias() -> None:
    model = gs.MLP(5, [7], 3, output_scale=0.5, seed=0)
    row = gs.Monitor(model, (torch.randn(4, 5), torch.arange(4) % 3), ["last_layer_norm"]).step(0)
    last = torch.cat([model.linear2.weight.flatten(), model.linear2.bias]).detach()
    assert row["last_layer_norm"] == pytest.approx(float(last.norm()), rel=1e-6)
