"""From the sections of a spec to data, networks, methods and monitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.data import Dataset, load
from grokscope.experiments.spec import (
    DataSpec,
    Experiment,
    ModelSpec,
    MonitorSpec,
    RobustSpec,
    SettledSpec,
    TargetSpec,
)
from grokscope.findings.target import Target
from grokscope.measures.robustness import gaussian_noise
from grokscope.methods import METHODS
from grokscope.methods.base import Method
from grokscope.models import build
from grokscope.training import (
    LayerGeometry,
    Monitor,
    NoiseAccuracy,
    NTKDistance,
    RobustAccuracy,
    Schedule,
    StopWhenSettled,
)
from grokscope.training.recorder import Recorder


def load_dataset(spec: DataSpec, dtype: str, data_dir: str | Path | None) -> Dataset:
    """The examples that a spec names."""
    settings = spec.model_dump(exclude={"name", "options", "reduce_to_span"})
    return load(
        spec.name, data_dir=data_dir, dtype=getattr(torch, dtype), **settings, **spec.options
    )


def build_model(spec: ModelSpec, data: Dataset, seed: int) -> nn.Module:
    """The network that a spec describes, initialized from the seed."""
    settings = spec.model_dump(exclude={"name", "scalar_output"})
    out_features = None if spec.scalar_output else data.num_classes
    return build(spec.name, data.train_x.shape[1:], out_features, seed=seed, **settings)


def build_trial_model(
    experiment: Experiment, data: Mapping[str, Dataset]
) -> Callable[[str, int], nn.Module]:
    """A function that builds the network of an arm and a seed, as it was before training."""

    def build_model_of(arm: str, seed: int) -> nn.Module:
        spec = experiment.arms[arm]
        dtype = getattr(torch, spec.training.dtype)
        return build_model(spec.model, data[arm], seed).to(dtype)

    return build_model_of


def build_method(settings: dict[str, Any], seed: int) -> Method:
    """A method by its name and settings; what it draws, it draws from the seed."""
    method: Any = METHODS[settings.pop("name")]
    drawn = {"seed": seed} if "seed" in signature(method).parameters else {}
    return method(**drawn, **settings)


def build_stop(spec: TargetSpec | SettledSpec | None) -> Target | StopWhenSettled | None:
    """Where training may stop, as ``fit`` takes it."""
    if isinstance(spec, SettledSpec):
        return StopWhenSettled(**spec.model_dump(exclude={"name"}))
    return Target(spec.metric, spec.value) if spec else None


def noise_on_test_points(spec: MonitorSpec, data: Dataset) -> Tensor | None:
    """The noise for the test points, in the data's own features; None where none is asked for."""
    if NoiseAccuracy.name not in spec.measures:
        return None
    generator = torch.Generator().manual_seed(spec.noise.seed)
    return gaussian_noise(
        data.test_x[: spec.test_size], slice(spec.noise.from_feature, None), generator
    )


def _robust_accuracy(spec: RobustSpec, data: Dataset) -> RobustAccuracy:
    """The attack in the data's own units: ``spec.eps`` is in those of a range from 0 to 1."""
    low, high = data.value_range or (0.0, 1.0)
    return RobustAccuracy(
        spec.attack,
        spec.norm,
        spec.eps * (high - low),
        bounds=data.value_range,
        steps=spec.steps,
        seed=spec.seed,
    )


def build_monitor(
    spec: MonitorSpec, model: nn.Module, data: Dataset, loss: str, noise: Tensor | None = None
) -> Monitor | None:
    """The monitor that a spec describes, on the first points of the split that it names.

    ``noise`` is that of ``noise_accuracy``, where the data's features are no longer their own.
    """
    if not spec.measures:
        return None
    x, y = (data.train_x, data.train_y) if spec.probe == "train" else (data.test_x, data.test_y)
    recorders: dict[str, Recorder] = {
        NTKDistance.name: NTKDistance(**spec.ntk.model_dump()),
        LayerGeometry.name: LayerGeometry(**spec.manifolds.model_dump()),
        NoiseAccuracy.name: NoiseAccuracy(
            spec.noise.std,
            slice(spec.noise.from_feature, None),
            spec.noise.seed,
            threshold=spec.noise.threshold,
            noise=noise,
        ),
        RobustAccuracy.name: _robust_accuracy(spec.robust, data),
    }
    test = (
        (data.test_x[: spec.test_size], data.test_y[: spec.test_size]) if spec.test_size else None
    )
    return Monitor(
        model,
        probe=(x[: spec.probe_size], y[: spec.probe_size]),
        measures=[recorders.get(name, name) for name in spec.measures],
        schedule=Schedule(**spec.schedule.model_dump()),
        test=test,
        loss=loss,
        pictures=spec.pictures,
    )
