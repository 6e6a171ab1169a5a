"""Accuracy under noise over training is the measure on the same noise at every step."""

from __future__ import annotations

import pytest
import torch

import grokscope as gs
from grokscope.experiments.from_spec import build_monitor, noise_on_test_points
from grokscope.experiments.spec import MonitorSpec, NoiseSpec

DATA = gs.load_data("digits", train_size=200, test_size=100)
TEST = DATA.test_x, DATA.test_y


def monitor(model: gs.MLP, noise: gs.NoiseAccuracy, **settings: object) -> gs.Monitor:
    return gs.Monitor(model, (DATA.train_x, DATA.train_y), [noise], schedule=5, **settings)


def test_the_columns_are_the_measure_on_one_draw() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    watched = monitor(model, gs.NoiseAccuracy([0.0, 0.3, 1.0], slice(8, None), seed=4), test=TEST)
    for step in (0, 5):
        row = watched.step(step)
        expected = gs.noise_accuracy(
            model, *TEST, [0.0, 0.3, 1.0], slice(8, None), torch.Generator().manual_seed(4)
        )
        found = [row[f"noise_accuracy/{s}"] for s in ("0", "0.3", "1")]
        assert found == pytest.approx(expected.tolist())
        gs.fit(model, DATA, max_steps=50, device="cpu")
    assert found[0] > found[2]


def test_noise_of_ones_own_is_used() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    blank = gs.NoiseAccuracy([1.0], noise=torch.zeros(100, 64))
    row = monitor(model, blank, test=TEST).step(0)
    assert row["noise_accuracy/1"] == row["test_accuracy"]
    with pytest.raises(ValueError, match=r"noise must have the shape of the test points, \(100, 6"):
        monitor(model, gs.NoiseAccuracy(noise=torch.zeros(99, 64)), test=TEST).step(0)


def test_what_it_lacks_is_named() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    with pytest.raises(ValueError, match="noise_accuracy needs test points"):
        monitor(model, gs.NoiseAccuracy()).step(0)
    with pytest.raises(ValueError, match="std must hold deviations"):
        gs.NoiseAccuracy([])
    assert "noise_accuracy/0.2" in gs.Monitor(
        model, (DATA.train_x, DATA.train_y), ["noise_accuracy"], test=TEST
    ).step(0)


def test_a_spec_asks_for_fewer_test_points_than_there_are() -> None:
    model = gs.MLP(64, [16], 10, seed=0)
    gs.fit(model, DATA, max_steps=50, device="cpu")
    noise = NoiseSpec(std=(0.5, 2.0), from_feature=8, seed=4)
    spec = MonitorSpec(measures=("noise_accuracy",), test_size=30, noise=noise)
    drawn = noise_on_test_points(spec, DATA)
    assert drawn is not None
    assert drawn.shape == (30, 64)
    few = DATA.test_x[:30], DATA.test_y[:30]
    expected = gs.noise_accuracy(
        model, *few, [0.5, 2.0], slice(8, None), torch.Generator().manual_seed(4)
    )
    for given in (drawn, None):
        watched = build_monitor(spec, model, DATA, "cross_entropy", given)
        assert watched is not None
        row = watched.step(0)
        found = [row[f"noise_accuracy/{s}"] for s in ("0.5", "2")]
        assert found == pytest.approx(expected.tolist())
    assert noise_on_test_points(MonitorSpec(measures=("weight_norm",)), DATA) is None
