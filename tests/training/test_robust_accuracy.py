"""Accuracy under attack over training is the measure on the monitor's test points."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.experiments.from_spec import build_monitor
from grokscope.experiments.spec import MonitorSpec, RobustSpec

DATA = gs.load_data("digits", train_size=200, test_size=60)
TEST = DATA.test_x, DATA.test_y


def test_the_column_is_the_measure() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    gs.fit(model, DATA, max_steps=100, device="cpu", lr=1e-2)
    measure = gs.RobustAccuracy("pgd", "L2", 0.5, steps=5, seed=4)
    monitor = gs.Monitor(model, (DATA.train_x, DATA.train_y), [measure], test=TEST)
    state = torch.get_rng_state()
    row = monitor.step(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert row["robust_accuracy"] == gs.robust_accuracy(
        model, *TEST, "pgd", "L2", 0.5, steps=5, seed=4
    )
    assert 0 < row["robust_accuracy"] < row["test_accuracy"]
    by_name = gs.Monitor(model, (DATA.train_x, DATA.train_y), ["robust_accuracy"], test=TEST)
    assert by_name.step(0)["robust_accuracy"] == gs.robust_accuracy(model, *TEST, "pgd")


def test_what_it_lacks_is_named() -> None:
    monitor = gs.Monitor(gs.MLP(64, [16], 10), (DATA.train_x, DATA.train_y), ["robust_accuracy"])
    with pytest.raises(ValueError, match="robust_accuracy needs test points"):
        monitor.step(0)


def test_a_training_that_has_diverged_has_no_value() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    with torch.no_grad():
        model.linear1.weight.fill_(torch.inf)
    row = gs.RobustAccuracy().measure(_probe(model), 0, gs.Monitor(model, TEST).archive)
    assert row["robust_accuracy"] != row["robust_accuracy"]


def _probe(model: gs.MLP):
    from grokscope.training.measure_with_memory import Probe

    return Probe(model, DATA.train_x, test=TEST)


def test_a_specs_eps_is_for_pixels_from_0_to_1() -> None:
    plain = gs.load_data("digits", train_size=100, test_size=40)
    normal = gs.load_data("digits", train_size=100, test_size=40, normalize=(0.3, 0.4))
    assert plain.value_range == (0.0, 1.0)
    assert normal.value_range == pytest.approx((-0.75, 1.75))
    spec = MonitorSpec(measures=("robust_accuracy",), test_size=40, robust=RobustSpec(eps=0.1))
    model = gs.MLP(64, [16], 10, seed=0)
    gs.fit(model, normal, max_steps=100, lr=1e-2, device="cpu")
    rows = [
        build_monitor(spec, network, data, "mse").step(0)
        for data, network in ((normal, model), (plain, lambda_model(model)))
    ]
    assert rows[0]["robust_accuracy"] == rows[1]["robust_accuracy"]
    assert 0 < rows[0]["robust_accuracy"] < rows[0]["test_accuracy"]


def lambda_model(model: nn.Module) -> nn.Module:
    """The same function of unnormalized inputs."""
    return gs.View(model, lambda m, x: m((x - 0.3) / 0.4))
