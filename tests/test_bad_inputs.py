"""Every public function and constructor, given what it cannot take: an answer or one clear line.

Each name of ``grokscope.__all__`` has a valid call in ``CALLS``, with all of its arguments. Each
argument in turn is replaced by the bad values of its kind. What is raised must be a ValueError,
TypeError or RuntimeError that names the argument. The calls run in a process of their own, without
the run-time check of annotations that the suite switches on, as users run them.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

import grokscope as gs

# Made by the library and read by its users, who build none themselves; and the run directory,
# whose files have tests of their own.
NOT_BUILT = {
    *("CenterStructure", "DecisionBoundary", "FitResult", "GlueGeometry", "JacobianGeometry"),
    *("LinearProbe", "LinearRegions", "ManifoldGeometry", "MergedRegions", "NTKPlan"),
    *("NonnegativeSolution", "Onset", "ParameterPlan", "Phase", "ProbeResult", "ProgressMeasures"),
    *("Run", "RunDirectory", "History", "SimulatedCapacity", "__version__"),
}


def _numbers(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _network() -> nn.Module:
    return gs.MLP(4, [5], 3, seed=0)


def _clouds() -> list[Tensor]:
    return [_numbers(5, 6) + 3 * i * torch.eye(6)[i] for i in range(3)]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _labels(n: int) -> Tensor:
    return torch.arange(n) % 3


def _measure(**more: Any) -> dict[str, Any]:
    return {"model": _network(), "x": _numbers(6, 4), "chunk_size": 4, **more}


def _method_data() -> tuple[Tensor, ...]:
    return _numbers(6, 4), _labels(6), _numbers(5, 4), _labels(5)


def _history() -> gs.History:
    rows = [{"step": 2**i, "train_accuracy": 1.0, "test_accuracy": i / 9} for i in range(9)]
    return gs.History(rows)


def _kernel(n: int = 5) -> Tensor:
    half = _numbers(n, 7) - 0.5
    return half @ half.T


def _transformer() -> dict[str, Any]:
    sizes = {"modulus": 5, "d_model": 8, "num_heads": 2, "d_mlp": 8, "length": 3}
    return {**sizes, "activation": "relu", "seed": 0}


def _checkpoints() -> str:
    folder = tempfile.mkdtemp()
    torch.save(_network().state_dict(), f"{folder}/net-3.pt")
    return folder


def _progress() -> dict[str, Any]:
    results = torch.arange(7).repeat(7)
    return {
        "logits": _numbers(49, 7),
        "results": results,
        "train": results < 3,
        "frequencies": [1, 3],
    }


def _cnn() -> dict[str, Any]:
    sizes = {"in_shape": (1, 4, 4), "widths": [2], "out_features": 3, "hidden": [4]}
    how = {"kernel": 3, "stage": 1, "downsample": "stride", "bias": True, "batch_norm": True}
    scales = {"weight_scale": 1.0, "output_scale": 2.0, "mean": 0.5, "std": 0.5}
    return {**sizes, **how, "activation": "relu", **scales, "seed": 0}


def _probe() -> dict[str, Any]:
    train, train_y, test, test_y = _method_data()
    return {
        "train_features": train,
        "train_y": train_y,
        "test_features": test,
        "test_y": test_y,
    }


def _slice() -> gs.Slice:
    return gs.Slice(torch.zeros(4), torch.eye(4)[:2], half_width=1.0)


_training = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
    "warmup": 0,
    "decay": "none",
    "loss": "cross_entropy",
    "label_smoothing": 0.0,
    "loss_in_float64": False,
    "freeze": [],
    "batch_size": 3,
    "shuffle": True,
    "max_steps": 1,
    "evaluate": "log",
    "checkpoint_seconds": 20.0,
    "compile": False,
    "seed": 0,
    "device": "cpu",
    "resume": False,
}

Call = Callable[[], dict[str, Any]]

# The valid call of each public name.
CALLS: dict[str, Call] = {
    "CNN": _cnn,
    "MLP": lambda: {
        "in_features": 4,
        "widths": [5],
        "out_features": 3,
        "bias": True,
        "activation": "relu",
        "weight_scale": 1.0,
        "output_scale": 1.0,
        "seed": 0,
    },
    "AdversarialTraining": lambda: {
        "eps": 0.1,
        "attack": "fgsm",
        "schedule": "error",
        "floor": 0.1,
        "seed": 0,
    },
    "Dataset": lambda: {
        "name": "mine",
        **dict(zip(("train_x", "train_y", "test_x", "test_y"), _method_data(), strict=True)),
        "num_classes": 3,
        "image_shape": (1, 2, 2),
        "class_names": ("a", "b", "c"),
        "value_range": (0.0, 1.0),
    },
    "GradientClipping": lambda: {"max_norm": 1.0},
    "GradientNoise": lambda: {"variance": 0.1, "decay": 0.5, "seed": 0},
    "GrokAlign": lambda: {
        "weight": 0.1,
        "mode": "constrain",
        "target": 1.0,
        "every": 1,
        "projections": 1,
        "squared": True,
        "offset_weight": 0.1,
        "examples": 4,
        "estimator": "auto",
        "seed": 0,
    },
    "Grokfast": lambda: {"kind": "ema", "strength": 2.0, "alpha": 0.9, "window": 5},
    "LayerGeometry": lambda: {
        "layers": ["linear1"],
        "num_points": 5,
        "num_samples": 5,
        "linear_probe": True,
        "probe_points": True,
    },
    "Monitor": lambda: {
        "model": _network(),
        "probe": (_numbers(6, 4), _labels(6)),
        "measures": ["jacobian_norm"],
        "schedule": "log",
        "test": (_numbers(6, 4), _labels(6)),
        "loss": "cross_entropy",
        "scores": "auto",
        "pictures": 1,
        "chunk_size": 4,
    },
    "NTKDistance": lambda: {
        "num_points": 5,
        "reduce": "trace",
        "chunk_size": 4,
        "keep_kernels": True,
    },
    "NoiseAccuracy": lambda: {"std": [0.1, 0.2], "dims": [0, 1], "seed": 0, "threshold": 0.0},
    "OrthoGrad": lambda: {"strength": 0.5},
    "RobustAccuracy": lambda: {
        "attack": "pgd",
        "norm": "Linf",
        "eps": 0.1,
        "bounds": (0.0, 1.0),
        "steps": 2,
        "seed": 0,
        "threshold": 0.0,
    },
    "Schedule": lambda: {"per_decade": 3, "every": 5, "at": (7,)},
    "Slice": lambda: {
        "origin": torch.zeros(4),
        "basis": torch.eye(4)[:2],
        "half_width": 1.0,
        "polygon": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    },
    "StopWhenSettled": lambda: {
        "patience": 4.0,
        "aligned": 0.05,
        "use_alignment": True,
        "give_up": 8.0,
    },
    "Target": lambda: {"metric": "test_accuracy", "target": 0.9},
    "Transformer": _transformer,
    "View": lambda: {"model": _network(), "forward": lambda m, x: m(x), "wrt": "e"},
    "adversarial_inputs": lambda: {
        "model": _network(),
        "x": _numbers(6, 4),
        "y": _labels(6),
        "eps": 0.1,
        "loss": nn.functional.cross_entropy,
    },
    "affine_map": _measure,
    "center_structure": lambda: {
        "centers": _numbers(5, 7),
        "num_starts": 1,
        "min_components": 1,
    },
    "centroid_alignment": _measure,
    "centroid_inner_product": _measure,
    "centroids": _measure,
    "class_manifolds": lambda: {
        "features": _numbers(9, 4),
        "labels": _labels(9),
        "num_points": 2,
        "generator": _generator(),
    },
    "embedding_2d": lambda: {
        "features": _numbers(9, 4),
        "num_neighbors": 3,
        "min_distance": 0.1,
        "generator": _generator(),
    },
    "empirical_ntk": lambda: {
        "model": _network(),
        "x1": _numbers(6, 4),
        "x2": _numbers(5, 4),
        "reduce": "trace",
        "chunk_size": 4,
        "parameters": ["linear1.weight"],
        "check": True,
        "sketch": 5,
        "generator": _generator(),
    },
    "fit": lambda: {"model": _network(), "data": _method_data(), "methods": [], **_training},
    "fit_seeds": lambda: {
        "build": lambda seed: gs.MLP(4, [5], 3, seed=seed),
        "data": _method_data(),
        "seeds": [0, 1],
        **{name: value for name, value in _training.items() if name != "seed"},
    },
    "fourier_gini": lambda: {"weight": _numbers(7, 4), "modulus": 7},
    "fourier_spectrum": lambda: {"weight": _numbers(7, 4), "modulus": 7},
    "gini": lambda: {"x": _numbers(7)},
    "glue_geometry": lambda: {
        "manifolds": _clouds(),
        "num_samples": 4,
        "generator": _generator(),
        "chunk_size": 2,
    },
    "input_jacobian": _measure,
    "jacobian_alignment": _measure,
    "jacobian_geometry": _measure,
    "jacobian_norm": lambda: _measure(projections=2, generator=_generator()),
    "jacobian_pc1": _measure,
    "jacobian_penalty": lambda: {
        "model": _network(),
        "x": _numbers(6, 4),
        "projections": 1,
        "squared": True,
        "offset_weight": 0.1,
        "examples": 4,
        "estimator": "auto",
        "generator": _generator(),
    },
    "keep_freed_memory": dict,
    "kernel_alignment": lambda: {"K": _kernel(), "y": _labels(5), "centered": True},
    "kernel_distance": lambda: {"K1": _kernel(), "K2": _kernel().square()},
    "kernel_distance_matrix": lambda: {"kernels": [_kernel(), _kernel().square()]},
    "key_frequencies": lambda: {"weight": _numbers(7, 4), "modulus": 7, "num": 2},
    "layer_activations": lambda: _measure(layers=["linear1"], max_features=2),
    "layer_centroids": lambda: _measure(layers=["linear1"]),
    "layer_radii": lambda: _measure(layers=["linear1"]),
    "linear_probe": lambda: {**_probe(), "l2": 0.1, "max_steps": 100},
    "linear_regions": lambda: {
        "model": _network(),
        "slice": _slice(),
        "max_regions": 1000,
        "partial": False,
    },
    "load_data": lambda: {
        "name": "digits",
        "classes": [0, 1],
        "train_size": 20,
        "test_size": 20,
        "subset": "first",
        "seed": 0,
        "normalize": (0.5, 0.5),
        "flatten": True,
    },
    "manifold_geometry": lambda: {
        "manifolds": _clouds(),
        "margin": 0.1,
        "num_samples": 4,
        "generator": _generator(),
        "correlations": "remove",
        "min_center_components": 1,
        "rank_reduced_dimension": False,
        "chunk_size": 2,
    },
    "measure": lambda: {
        "checkpoints": _checkpoints(),
        "model": _network(),
        "data": _method_data(),
        "out": tempfile.mkdtemp(),
        "pattern": "net-{step}.pt",
        "measures": ["weight_norm"],
        "loss": "cross_entropy",
        "probe_size": 4,
        "device": "cpu",
    },
    "noise_accuracy": lambda: _measure(
        y=_labels(6), std=[0.1, 0.2], dims=[0, 1], generator=_generator(), threshold=0.0
    ),
    "noise_deviation": lambda: {"step": 3, "variance": 0.1, "decay": 0.5},
    "noisy_inputs": lambda: {"x": _numbers(6, 4), "std": 0.1, "generator": _generator()},
    "nonnegative_least_squares": lambda: {"points": _numbers(4, 6), "targets": _numbers(3, 4)},
    "ntk_plan": lambda: {
        "model": _network(),
        "x": _numbers(6, 4),
        "reduce": "trace",
        "parameters": ["linear1.weight"],
    },
    "ntk_velocity": lambda: {"kernels": [_kernel(), _kernel().square()], "steps": [1, 5]},
    "onset": lambda: {
        "history": _history(),
        "train": "train_accuracy",
        "test": "test_accuracy",
        "memorized": 0.9,
        "least_rise": 0.1,
    },
    "orthogonal_gradient": lambda: {
        "weight": _numbers(3, 4),
        "gradient": _numbers(3, 4).square(),
        "strength": 0.5,
        "batch_dims": 1,
    },
    "progress_measures": _progress,
    "radii": _measure,
    "robust_accuracy": lambda: _measure(
        y=_labels(6),
        attack="pgd",
        norm="Linf",
        eps=0.1,
        bounds=(0.0, 1.0),
        steps=2,
        seed=0,
        threshold=0.0,
    ),
    "robust_radius": lambda: _measure(y=_labels(6), threshold=0.0),
    "sgd_probe": lambda: {
        **_probe(),
        "num_repeats": 1,
        "num_examples": 6,
        "num_epochs": 1,
        "batch_size": 3,
        "learning_rate": 0.1,
        "generator": _generator(),
    },
    "simulated_capacity": lambda: {
        "manifolds": _clouds(),
        "num_trials": 2,
        "generator": _generator(),
        "center": True,
        "progress": False,
    },
    "slow_gradient_ema": lambda: {
        "gradient": _numbers(3, 4),
        "mean": _numbers(3, 4),
        "alpha": 0.9,
    },
    "slow_gradient_ma": lambda: {"window": _numbers(3, 4)},
    "stable_logits": lambda: {"logits": _numbers(6, 3)},
    "stablemax_cross_entropy": lambda: {
        "logits": _numbers(6, 3),
        "y": _labels(6),
        "label_smoothing": 0.1,
    },
    "stream_layer_activations": lambda: _measure(layers=["linear1"], max_features=2),
    "weight_norms": lambda: {"model": _network()},
}

# What an argument may well be, by the name of the function ("*": any) and the argument's. Gradients
# that overflowed pass through what filters them, as a GradScaler needs; a network's own outputs
# pass through a loss; and where the answer for an empty or infinite argument is plain, it is given.
ALLOWED: dict[tuple[str, str], set[str]] = {
    ("*", "seed"): {"negative", "zero"},
    ("*", "threshold"): {"negative"},
    ("*", "name"): {"misspelt"},
    ("*", "layers"): {"empty"},
    ("LayerGeometry", "layers"): {"empty", "first misspelt"},  # no model is known yet
    ("Monitor", "schedule"): {"number"},
    ("Monitor", "test"): {"None"},
    ("Monitor", "measures"): {"empty"},
    ("Monitor", "pictures"): {"zero"},
    ("Monitor", "probe"): {"first integers"},
    ("measure", "checkpoints"): {"list"},
    ("measure", "out"): {"misspelt"},
    ("measure", "measures"): {"empty"},
    ("*", "dims"): {"first negative", "first zero"},
    ("Schedule", "at"): {"empty", "first zero"},
    ("Target", "metric"): {"misspelt"},
    ("Target", "target"): {"negative"},  # of a loss
    ("View", "model"): {"detached", "constant", "width", "meta", "lazy"},  # the measures say so
    ("View", "wrt"): {"None", "misspelt", "number"},  # no batch is known yet
    ("*", "min_components"): {"zero"},
    ("*", "min_center_components"): {"zero"},
    ("class_manifolds", "features"): {"integers", "width"},
    ("class_manifolds", "labels"): {"negative", "range"},
    ("embedding_2d", "features"): {"width", "integers"},
    ("center_structure", "centers"): {"width"},
    ("*", "methods"): {"empty"},
    ("*", "freeze"): {"empty"},
    ("*", "warmup"): {"zero"},
    ("*", "evaluate"): {"number"},
    ("fit_seeds", "seeds"): {"first zero"},
    ("*", "weight"): {"width"},
    ("gini", "x"): {"axis less", "axis more", "integers", "complex"},
    ("kernel_alignment", "K"): {"integers"},
    ("kernel_alignment", "y"): {"range", "floats"},
    ("*", "K1"): {"integers"},
    ("*", "K2"): {"integers"},
    ("*", "kernels"): {"first integers"},
    ("ntk_velocity", "steps"): {"first negative", "first zero", "first fraction"},
    ("layer_activations", "model"): {"detached", "constant"},
    ("stream_layer_activations", "model"): {"detached", "constant"},
    ("noise_accuracy", "model"): {"detached", "constant"},
    ("noise_accuracy", "std"): {"number"},
    ("linear_regions", "model"): {"detached"},  # the weights are read, not differentiated by
    ("load_data", "classes"): {"first zero"},
    ("load_data", "normalize"): {"first list", "first negative"},
    ("*", "train_features"): {"integers"},
    ("*", "test_features"): {"integers"},
    ("linear_probe", "train_y"): {"range"},
    ("linear_probe", "test_y"): {"range"},
    ("sgd_probe", "train_y"): {"range"},
    ("sgd_probe", "test_y"): {"range"},
    ("noisy_inputs", "x"): {"axis more", "width"},
    ("nonnegative_least_squares", "points"): {"width"},
    ("orthogonal_gradient", "batch_dims"): {"zero"},
    ("CNN", "hidden"): {"empty"},
    ("CNN", "mean"): {"negative", "list"},
    ("CNN", "std"): {"list"},
    ("MLP", "widths"): {"empty"},
    ("Dataset", "class_names"): {"first misspelt"},
    ("Dataset", "value_range"): {"first negative", "first zero", "first fraction"},
    ("*", "bounds"): {"first negative", "first zero", "first fraction"},
    ("stablemax_cross_entropy", "logits"): {"NaN", "infinity"},
    ("weight_norms", "model"): {"detached", "constant", "width"},
    ("slow_gradient_ma", "window"): {"NaN", "infinity", "axis less", "axis more", "width"},
    ("slow_gradient_ema", "gradient"): {"NaN", "infinity"},
    ("slow_gradient_ema", "mean"): {"NaN", "infinity"},
    ("orthogonal_gradient", "gradient"): {"NaN", "infinity"},
    ("orthogonal_gradient", "weight"): {"NaN", "infinity"},
    ("stable_logits", "logits"): {"*"},
}


def _monitored(**arguments: Any) -> Any:
    """The first row of a monitor, which runs the model."""
    return gs.Monitor(**arguments).step(0)


# A constructor that cannot know what is wrong before it is used.
USED: dict[str, Callable[..., Any]] = {"Monitor": _monitored}

# By what a part of an argument is called in messages.
PARTS = {
    "data": ("data", "train_x"),
    "probe": ("probe", "x of shape"),
    "test": ("test", "x of shape"),
}


class _Detached(nn.Module):
    """A network whose outputs have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs without a graph."""
        with torch.no_grad():
            return self.linear1(x)


class _Constant(nn.Module):
    """A network that returns what does not depend on anything."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(len(x), 3)


def _bad_models() -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "string", "resnet"
    yield "number", 3
    yield "class", nn.Linear
    yield "detached", _Detached()
    yield "constant", _Constant()
    yield "meta", nn.Linear(4, 3, device="meta")
    yield "width", nn.Sequential(nn.Linear(7, 3))
    yield "lazy", nn.LazyLinear(3)


def _bad_tensors(tensor: Tensor) -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "string", "x"
    yield "list", tensor.tolist()
    yield "empty", tensor[:0]
    yield "axis less", tensor[0]
    yield "axis more", tensor[None]
    if tensor.is_floating_point():
        spoiled = tensor.clone()
        spoiled.view(-1)[1] = math.nan
        yield "NaN", spoiled
        spoiled = tensor.clone()
        spoiled.view(-1)[1] = math.inf
        yield "infinity", spoiled
        yield "integers", (9 * tensor).long()
        yield "complex", tensor * 1j
        yield "meta", tensor.to("meta")
        if tensor.ndim > 1:
            yield "width", tensor[:, :-1]
    elif tensor.dtype is torch.bool:
        yield "length", tensor[:-1]
        yield "floats", tensor.float()
    else:
        yield "length", tensor[:-1]
        yield "negative", tensor - 1
        yield "range", tensor + 1000
        yield "floats", tensor.float() + 0.5


def _bad_numbers(number: float) -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "string", "3"
    yield "list", [1]
    yield "True", True
    yield "NaN", math.nan
    yield "infinity", math.inf
    yield "negative", -1 if isinstance(number, int) else -1.5
    if isinstance(number, int):
        yield "zero", 0
        yield "fraction", 1.5


def _bad_lists(values: Any) -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "number", 3
    yield "string", "abc"
    yield "empty", type(values)()
    first = values[0] if len(values) else None
    others = type(values)(values[1:])
    if isinstance(first, Tensor):
        bad = [pair for pair in _bad_tensors(first) if pair[0] != "list"]
    elif isinstance(first, str):
        bad = [("number", 3), ("misspelt", first + "x")]
    else:
        bad = [pair for pair in _bad_numbers(first or 0) if first is not None]
    for kind, value in bad:
        yield f"first {kind}", type(values)([value]) + others


def _bad_values(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from _bad_models()
    elif isinstance(value, Tensor):
        yield from _bad_tensors(value)
    elif isinstance(value, bool):
        yield from (("string", "no"), ("None", None), ("number", 2))
    elif isinstance(value, int | float):
        yield from _bad_numbers(value)
    elif isinstance(value, str):
        yield from (("misspelt", value + "x"), ("None", None), ("number", 3), ("list", [value]))
    elif isinstance(value, list | tuple):
        yield from _bad_lists(value)
    else:  # generators, functions, slices, histories
        yield from (("None", None), ("number", 3), ("string", "abc"))


def _parameters(function: Any) -> dict[str, str]:
    """The arguments and their annotations."""
    found = inspect.signature(function).parameters.values()
    return {p.name: str(p.annotation) for p in found if p.kind is not p.VAR_KEYWORD}


def _finite(answer: Any) -> bool:
    """Whether no number of an answer is NaN."""
    if isinstance(answer, Tensor):
        return not answer.is_meta and not bool(answer.isnan().any())
    if isinstance(answer, float):
        return not math.isnan(answer)
    if is_dataclass(answer):
        return all(_finite(getattr(answer, field.name)) for field in fields(answer))
    if isinstance(answer, dict):
        return all(map(_finite, answer.values()))
    return all(map(_finite, answer)) if isinstance(answer, list | tuple) else True


def _fault(function: Any, arguments: dict[str, Any], name: str) -> str | None:
    """What is wrong with how a call with a bad argument ends, or None."""
    try:
        answer = function(**arguments)
        if isinstance(answer, Iterator):
            answer = list(answer)
    except (ValueError, TypeError, RuntimeError) as error:
        kind = type(error)
        named = any(part in str(error) for part in PARTS.get(name, (name,)))
        clear = kind in (ValueError, TypeError, RuntimeError) and named
        where = "" if clear else f" at {_place(error)}"
        theirs = "positional argument" in str(error) or "object" in str(error)
        return None if clear and not theirs else f"{kind.__name__}: {str(error)[:150]}{where}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]} at {_place(error)}"
    return f"answers {str(answer)[:80]!r}" + ("" if _finite(answer) else " (NaN)")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _faults() -> list[str]:
    """One line for each bad value that is answered, or refused unclearly."""
    found = []
    for name, build in CALLS.items():
        function = getattr(gs, name)
        annotations = _parameters(function)
        valid = build()
        with suppress(ModuleNotFoundError):  # of an extra: what is bad is refused before
            function(**valid)
        for argument in valid:
            for kind, _ in _bad_values(build()[argument]):
                if kind == "None" and "None" in annotations.get(argument, ""):
                    continue
                allowed = ALLOWED.get((name, argument), set()) | ALLOWED.get(("*", argument), set())
                if kind in allowed or "*" in allowed:
                    continue
                arguments = build()
                arguments[argument] = dict(_bad_values(arguments[argument]))[kind]
                if fault := _fault(USED.get(name, function), arguments, argument):
                    found.append(f"{name}({argument}={kind}): {fault}")
    return found


def test_every_public_name_has_a_valid_call() -> None:
    names = set(gs.__all__) - NOT_BUILT
    missing = sorted(names - set(CALLS))
    assert not missing, (
        f"no valid call of {missing} to spoil: add to CALLS in tests/test_bad_inputs.py, under the "
        "name, a function that returns a small value for each argument"
    )
    assert set(CALLS) <= names
    for name, build in CALLS.items():
        assert set(build()) <= set(_parameters(getattr(gs, name))), name


def test_bad_inputs_are_refused_in_one_clear_line() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    faults = json.loads(done.stdout.splitlines()[-1])
    assert not faults, "\n".join(faults)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(json.dumps(_faults()))
