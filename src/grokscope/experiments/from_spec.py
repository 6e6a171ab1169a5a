"""From the sections of a spec to data, networks, methods and monitors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grokscope.data import Dataset, load, load_file
from grokscope.experiments.data_and_model import (
    AnyDataSpec,
    AnyModelSpec,
    FileSpec,
    ImportedDataSpec,
    ImportedModelSpec,
)
from grokscope.experiments.errors import SpecError
from grokscope.imports import failures_told, imported
from grokscope.measures.batches import rows
from grokscope.measures.robustness import gaussian_noise
from grokscope.methods import METHODS
from grokscope.methods.base import Method
from grokscope.models import build, seeded_initialization
from grokscope.training.evaluation import Evaluation
from grokscope.training.examples import data_of
from grokscope.training.freezing import freeze
from grokscope.training.layer_geometry import LayerGeometry
from grokscope.training.measure_with_memory import MeasureWithMemory
from grokscope.training.monitor import Monitor
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.ntk_distance import NTKDistance
from grokscope.training.robust_accuracy import RobustAccuracy
from grokscope.training.schedule import Schedule
from grokscope.training.settings import TrainingSettings

if TYPE_CHECKING:
    from grokscope.experiments.spec import (
        Experiment,
        MonitorSpec,
        RobustSpec,
        TrainingSpec,
        TrialSpec,
    )


def load_dataset(spec: AnyDataSpec, dtype: str, data_dir: str | Path | None) -> Dataset:
    """The examples that a spec names. Data of one's own are imported here, and nowhere else.

    Raises:
        SpecError: if an import finds nothing, or gives what is no data set.
        DataError: if a file is missing or damaged.
    """
    kind = getattr(torch, dtype)
    if isinstance(spec, FileSpec):
        return load_file(spec.file, kind)
    if isinstance(spec, ImportedDataSpec):
        return _imported_dataset(spec).to(dtype=kind)
    settings = spec.model_dump(exclude={"name", "options", "reduce_to_span"})
    return load(spec.name, data_dir=data_dir, dtype=kind, **settings, **spec.options)


def build_model(spec: AnyModelSpec, data: Dataset, seed: int) -> nn.Module:
    """The network that a spec describes, initialized from the seed.

    Raises:
        SpecError: if an import finds nothing, or gives what is no network.
    """
    if isinstance(spec, ImportedModelSpec):
        return _imported_model(spec, seed)
    settings = spec.model_dump(exclude={"name", "scalar_output"})
    out_features = None if getattr(spec, "scalar_output", False) else data.num_classes
    try:
        shape = data.input_shape(f"model {spec.name}")
    except TypeError as error:
        raise SpecError(str(error)) from None
    return build(spec.name, shape, out_features, seed=seed, **settings)


def check_trial(
    spec: TrialSpec, data: Dataset, seed: int, device: torch.device | str = "cpu"
) -> None:
    """Build a network and run it on one example, before there is a run of it.

    Raises:
        SpecError: if it cannot be built, does not run, or what it returns, the data and the
            settings of its training do not go together.
    """
    imports = getattr(spec.model, "import", None)
    try:
        settings = TrainingSettings(**training_settings(spec.training))
        model = build_model(spec.model, data, seed).to(device, settings.dtype)
        freeze(model, settings.freeze)
        with torch.random.fork_rng(devices=[]):
            Evaluation(model, data.to(device), settings.objective)
    except (torch.OutOfMemoryError, MemoryError, SpecError):
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(f"import {imports}: {error}" if imports else str(error)) from error
    except Exception as error:
        if imports is None:
            raise
        raise SpecError(f"import {imports}: {type(error).__name__}: {error}") from error


def training_settings(spec: TrainingSpec) -> dict[str, Any]:
    """The settings of a training as ``fit`` takes them."""
    return spec.model_dump(exclude={"stop_at", "evaluate", "dtype"}) | {
        "stop_at": spec.stop_at and spec.stop_at.goal,
        "evaluate": Schedule(**spec.evaluate.model_dump()),
        "dtype": getattr(torch, spec.dtype),
    }


def _imported_dataset(spec: ImportedDataSpec) -> Dataset:
    path = getattr(spec, "import")
    found = _called(spec)
    try:
        return data_of(found, path.partition(":")[2])
    except (TypeError, ValueError) as error:
        raise SpecError(f"import {path}: {error}") from None


def _imported_model(spec: ImportedModelSpec, seed: int) -> nn.Module:
    with seeded_initialization(seed):
        found = _called(spec)
    if not isinstance(found, nn.Module):
        raise SpecError(
            f"import {getattr(spec, 'import')} must give an nn.Module: got {type(found).__name__}"
        )
    return found


def _called(spec: ImportedDataSpec | ImportedModelSpec) -> Any:
    """What a user's class or function makes of its arguments."""
    path = getattr(spec, "import")
    try:
        function = imported(path, spec.folder)
        if isinstance(function, nn.Module):  # which can be called too
            raise ValueError(
                f"import {path}: {path.partition(':')[2]} is a network already; give its class, or "
                "a function that makes one"
            )
        signature(function).bind(**spec.arguments)
    except (ValueError, TypeError) as error:
        raise SpecError(str(error) if path in str(error) else f"import {path}: {error}") from None
    try:
        with failures_told(path, spec.folder):
            return function(**spec.arguments)
    except ValueError as error:
        raise SpecError(str(error)) from error


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


def noise_on_test_points(spec: MonitorSpec, data: Dataset) -> Tensor | None:
    """The noise for the test points, in the data's own features; None where none is asked for.

    None too where inputs have several tensors: the monitor then draws it by itself.
    """
    if NoiseAccuracy.name not in spec.measures or not isinstance(data.test_x, Tensor):
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
    with_memory: dict[str, MeasureWithMemory] = {
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
    few = slice(0, spec.test_size)
    test = (rows(data.test_x, few), data.test_y[few]) if spec.test_size else None
    return Monitor(
        model,
        probe=(rows(x, slice(0, spec.probe_size)), y[: spec.probe_size]),
        measures=[with_memory.get(name, name) for name in spec.measures],
        schedule=Schedule(**spec.schedule.model_dump()),
        test=test,
        loss=loss,
        pictures=spec.pictures,
        exact=True,
    )
