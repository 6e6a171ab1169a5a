"""The manifold geometry of layers over training is what the measures say of the activations."""

from __future__ import annotations

import math

import pytest
import torch

import grokscope as gs

# few classes: the search for what their centers share is most of what geometry costs
DATA = gs.load_data("digits", classes=[0, 1, 2, 3], train_size=100, test_size=80)


def monitor(model: gs.MLP, geometry: gs.LayerGeometry) -> gs.Monitor:
    return gs.Monitor(
        model,
        (DATA.train_x, DATA.train_y),
        [geometry],
        schedule=5,
        test=(DATA.test_x, DATA.test_y),
    )


def test_the_columns_are_the_measures_of_the_activations() -> None:
    model = gs.MLP(64, [16, 12], 4, seed=0)
    row = monitor(model, gs.LayerGeometry(num_points=15, num_samples=20)).step(0)
    for split, x, y in (("", DATA.train_x, DATA.train_y), ("test_", DATA.test_x, DATA.test_y)):
        activations = gs.layer_activations(model, x)
        assert len(activations) == 5
        for layer, features in activations.items():
            clouds = gs.class_manifolds(features, y, 15)
            expected = gs.manifold_geometry(clouds, num_samples=20)
            assert row[f"{split}capacity/{layer}"] == float(expected.mean_capacity)
            assert row[f"{split}radius/{layer}"] == float(expected.mean_radius)
            assert row[f"{split}dimension/{layer}"] == float(expected.mean_dimension)
    train = gs.layer_activations(model, DATA.train_x)["linear2"]
    test = gs.layer_activations(model, DATA.test_x)["linear2"]
    probe = gs.linear_probe(train, DATA.train_y, test, DATA.test_y)
    assert row["linear_probe/linear2"] == probe.accuracy


def test_a_dead_layer_has_no_geometry_and_stops_nothing() -> None:
    model = gs.MLP(64, [16], 4, seed=0)
    with torch.no_grad():
        model.linear1.bias.fill_(-100.0)
    row = monitor(model, gs.LayerGeometry(["activation1"], 15, 20)).step(0)
    assert math.isnan(row["capacity/activation1"])


def test_training_is_not_disturbed() -> None:
    histories = []
    for measures in ([], [gs.LayerGeometry(["linear2"], 10, 10)]):
        model = gs.MLP(64, [16], 4, seed=0)
        watch = gs.Monitor(model, (DATA.train_x, DATA.train_y), measures, schedule=5)
        result = gs.fit(model, DATA, monitor=watch, max_steps=10, lr=0.01, evaluate=5, device="cpu")
        histories.append(result.history["test_loss"].tolist())
    assert histories[0] == histories[1]


def test_the_callers_own_test_accuracy_wins() -> None:
    row = monitor(gs.MLP(64, [16], 4, seed=0), gs.LayerGeometry(["linear2"], 10, 10)).step(
        0, test_accuracy=0.123
    )
    assert row["test_accuracy"] == 0.123


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="num_points must be a positive integer: got 0"):
        gs.LayerGeometry(num_points=0)


def test_probes_and_probe_points_can_be_left_out() -> None:
    model = gs.MLP(64, [16], 4, seed=0)
    without = gs.LayerGeometry(["linear2"], 10, 10, linear_probe=False)
    row = monitor(model, without).step(0)
    assert "capacity/linear2" in row
    assert "linear_probe/linear2" not in row
    alone = gs.LayerGeometry(["linear2"], 10, 10, probe_points=False)
    row = monitor(model, alone).step(0)
    assert "capacity/linear2" not in row
    assert {"test_capacity/linear2", "linear_probe/linear2"} <= set(row)
