"""What a spec says goes to the measure, the method or the network that it is about."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import grokscope as gs
from grokscope.experiments.data_and_model import MODEL_SPECS
from grokscope.experiments.from_spec import (
    build_method,
    build_model,
    build_monitor,
    build_trial_model,
    noise_on_test_points,
)
from grokscope.experiments.spec import Experiment, MonitorSpec
from grokscope.measures.robustness import gaussian_noise

DATA = gs.load_data("digits", train_size=30, test_size=20)
IMAGES = replace(DATA, train_x=DATA.train_x.view(-1, 1, 8, 8), test_x=DATA.test_x.view(-1, 1, 8, 8))
TOKENS = gs.load_data("modular", modulus=7, encoding="tokens")
EVERY = {
    "measures": ["weight_norm", "ntk_distance", "manifold_geometry", "noise_accuracy"],
    "probe_size": 7,
    "pictures": 3,
    "test_size": 9,
    "ntk": {"num_points": 5, "reduce": "trace", "keep_kernels": False},
    "manifolds": {
        "layers": ["linear1"],
        "num_points": 4,
        "num_samples": 6,
        "linear_probe": False,
        "probe_points": False,
    },
    "noise": {"std": [0.1, 0.3], "from_feature": 60, "seed": 8, "threshold": 0.25},
    "robust": {"attack": "apgd", "norm": "L2", "eps": 0.1, "steps": 3, "seed": 2},
    "schedule": {"per_decade": None, "every": 10, "at": [3]},
}


def monitor(data: gs.Dataset = DATA, **changes: object) -> gs.Monitor:
    spec = MonitorSpec.model_validate({**EVERY, **changes})
    built = build_monitor(spec, gs.MLP(64, [4], 10, seed=0), data, "mse")
    assert built is not None
    return built


def test_every_field_of_a_monitor_reaches_it() -> None:
    built = monitor(measures=[*EVERY["measures"], "robust_accuracy"])
    assert torch.equal(built.probe[0], DATA.train_x[:7])
    assert torch.equal(built.probe[1], DATA.train_y[:7])
    assert built.test is not None
    assert torch.equal(built.test[0], DATA.test_x[:9])
    assert torch.equal(built.test[1], DATA.test_y[:9])
    assert (built._num_pictures, built._exact) == (3, True)
    assert [step for step in range(25) if step == built.schedule.after(step - 1)] == [0, 3, 10, 20]
    expected = {
        "ntk_distance": {"num_points": 5, "reduce": "trace", "keep_kernels": False},
        "manifold_geometry": {
            "layers": ("linear1",),
            "num_points": 4,
            "num_samples": 6,
            "linear_probe": False,
            "probe_points": False,
        },
        "noise_accuracy": {
            "std": (0.1, 0.3),
            "dims": slice(60, None),
            "seed": 8,
            "threshold": 0.25,
        },
        "robust_accuracy": {"attack": "apgd", "norm": "L2", "eps": 0.1, "steps": 3, "seed": 2},
    }
    found = {
        measure.name: measure
        for measure in vars(built)["_measures"].values()
        if hasattr(measure, "name")
    }
    assert set(expected) <= set(found)
    for name, settings in expected.items():
        assert {key: getattr(found[name], key) for key in settings} == settings


def test_a_monitor_may_watch_test_points_and_needs_none_besides() -> None:
    built = monitor(probe="test", measures=["weight_norm"], test_size=0)
    assert torch.equal(built.probe[0], DATA.test_x[:7])
    assert torch.equal(built.probe[1], DATA.test_y[:7])
    assert built.test is None


@pytest.mark.parametrize(
    ("of", "eps"), [(None, 0.1), ((0.0, 1.0), 0.1), ((-0.75, 1.75), 0.25), ((2.0, 5.0), 0.3)]
)
def test_the_radius_of_an_attack_is_scaled_with_the_inputs(
    of: tuple[float, float] | None, eps: float
) -> None:
    built = monitor(replace(DATA, value_range=of), measures=["robust_accuracy"])
    (measure,) = (each for each in vars(built)["_measures"].values() if hasattr(each, "bounds"))
    assert measure.eps == pytest.approx(eps)
    assert measure.bounds == of


def test_noise_is_drawn_once_for_the_test_points_in_their_own_features() -> None:
    spec = MonitorSpec.model_validate(EVERY)
    noise = noise_on_test_points(spec, DATA)
    drawn = gaussian_noise(DATA.test_x[:9], slice(60, None), torch.Generator().manual_seed(8))
    assert noise is not None
    assert torch.equal(noise, drawn)
    without = MonitorSpec.model_validate({**EVERY, "measures": ["weight_norm"]})
    assert noise_on_test_points(without, DATA) is None


def test_what_a_method_draws_it_draws_from_the_seed() -> None:
    drawing = build_method({"name": "gradient_noise", "variance": 0.5}, 7)
    assert drawing.variance == 0.5  # type: ignore[attr-defined]
    assert [each.initial_seed() for each in drawing.generators] == [7]  # type: ignore[attr-defined]
    assert build_method({"name": "clipping", "max_norm": 3.0}, 7).max_norm == 3.0  # type: ignore[attr-defined]


def test_a_network_has_the_data_s_classes_the_seed_and_the_type() -> None:
    model = {"widths": [5], "weight_scale": 2.0}
    arms = {"one": {"data": {"name": "digits"}, "model": model, "training": {"dtype": "float64"}}}
    said = {"name": "x", "title": "X", "arms": arms}
    experiment = Experiment.model_validate(said)
    build = build_trial_model(experiment, {"one": DATA})
    plain = gs.MLP(64, [5], 10, seed=3, weight_scale=2.0).to(torch.float64)
    for ours, theirs in zip(build("one", 3).parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(next(build("one", 4).parameters()), next(plain.parameters()))
    arms["one"]["model"] = {**model, "scalar_output": True}  # type: ignore[dict-item]
    scalar = Experiment.model_validate(said).arms["one"].model
    assert build_model(scalar, DATA, 0)(DATA.test_x).shape == (20,)


@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"name": "mlp", "widths": (4,)}, DATA),
        ({"name": "cnn", "widths": (4,)}, IMAGES),
        ({"name": "transformer", "d_model": 8}, TOKENS),
    ],
)
def test_a_network_of_every_kind_has_an_output_for_each_class(
    settings: dict[str, object], data: gs.Dataset
) -> None:
    model = build_model(MODEL_SPECS[str(settings["name"])](**settings), data, seed=0)
    assert model(data.train_x[:5]).shape == (5, data.num_classes)
