"""What a spec does not say: the default of every field, written out once more beside the code."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import pytest

from grokscope.experiments.analyses import ANALYSES
from grokscope.experiments.data_and_model import (
    MODEL_SPECS,
    FileSpec,
    ImportedDataSpec,
    ImportedModelSpec,
)
from grokscope.experiments.runner import run_experiment
from grokscope.experiments.spec import METHOD_SPECS, Experiment, SettledSpec, StopTargetSpec
from grokscope.experiments.sweep import Job
from grokscope.findings.sections import Strict

SCHEDULE = {"per_decade": 12, "every": None, "at": ()}
MODEL = {
    "name": "mlp",
    "scalar_output": False,
    "widths": (200, 200),
    "bias": True,
    "activation": "relu",
    "weight_scale": 1.0,
    "output_scale": 1.0,
}
TRAINING = {
    "optimizer": "adamw",
    "lr": 0.001,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "warmup": 0,
    "decay": "none",
    "loss": "cross_entropy",
    "label_smoothing": 0.0,
    "loss_in_float64": False,
    "freeze": (),
    "batch_size": None,
    "shuffle": True,
    "max_steps": 10_000,
    "stop_at": None,
    "evaluate": SCHEDULE,
    "dtype": "float32",
    "keep_checkpoints": False,
    "checkpoint_seconds": 20.0,
    "compile": False,
}
MONITOR = {
    "measures": (
        *("jacobian_norm", "jacobian_alignment", "row_alignment", "jacobian_pc1"),
        *("centroid_alignment", "centroid_norm", "centroid_inner_product", "weight_norm"),
    ),
    "after_training": (),
    "probe": "train",
    "probe_size": 256,
    "pictures": 8,
    "test_size": 0,
    "ntk": {"num_points": 64, "reduce": "full", "keep_kernels": True},
    "manifolds": {
        "layers": None,
        "num_points": 50,
        "num_samples": 100,
        "linear_probe": True,
        "probe_points": True,
    },
    "noise": {"std": (0.2, 0.4, 0.6, 0.8, 1.0), "from_feature": 0, "seed": 0, "threshold": 0.0},
    "robust": {"attack": "pgd", "norm": "Linf", "eps": 4 / 255, "steps": None, "seed": 0},
    "schedule": SCHEDULE,
}
DATA = {
    "name": "digits",
    "classes": None,
    "train_size": None,
    "test_size": None,
    "subset": "first",
    "seed": 0,
    "normalize": None,
    "flatten": True,
    "options": {},
    "reduce_to_span": False,
}
EXPERIMENT = {
    "name": "small",
    "title": "Small",
    "description": "",
    "source": "",
    "reproduces": (),
    "duration": {},
    "preset": "quick",
    "seeds": (0,),
    "threads": None,
    "vectorize": "auto",
    "milestones": {
        "memorized": {"metric": "train_accuracy", "target": 0.99},
        "generalized": {"metric": "test_accuracy", "target": 0.9},
    },
    "arms": {
        "one": {
            "title": "",
            "methods": (),
            "data": DATA,
            "model": MODEL,
            "training": TRAINING,
            "monitor": MONITOR,
        }
    },
    "analysis": None,
    "analysis_options": {},
    "claims": (),
    "panels": (),
}
CNN = {
    "hidden": (),
    "kernel": 3,
    "stage": 2,
    "downsample": "stride",
    "bias": True,
    "batch_norm": False,
    "activation": "relu",
    "weight_scale": 1.0,
    "output_scale": 1.0,
    "mean": None,
    "std": None,
}
GROKALIGN = {
    "weight": 1e-3,
    "mode": "minimize",
    "target": None,
    "every": 1,
    "projections": 1,
    "squared": True,
    "offset_weight": 0.0,
    "examples": None,
    "estimator": "auto",
}
SECTIONS: list[tuple[type[Strict], dict[str, Any]]] = [
    (MODEL_SPECS["mlp"], MODEL),
    (MODEL_SPECS["cnn"], {"name": "cnn", **CNN}),
    (
        MODEL_SPECS["transformer"],
        {"name": "transformer", "d_model": 128, "num_heads": 4, "d_mlp": 512, "activation": "relu"},
    ),
    (
        METHOD_SPECS["adversarial"],
        {"eps": 0.03, "attack": "noise", "schedule": "accuracy", "floor": 0.0},
    ),
    (METHOD_SPECS["clipping"], {"max_norm": 1.0}),
    (METHOD_SPECS["gradient_noise"], {"variance": 0.01, "decay": 0.55}),
    (METHOD_SPECS["grokalign"], GROKALIGN),
    (
        METHOD_SPECS["grokfast"],
        {"kind": "ema", "strength": None, "alpha": 0.98, "window": 100},
    ),
    (METHOD_SPECS["orthograd"], {"strength": 1.0}),
    (StopTargetSpec, {"metric": "test_accuracy"}),
    (SettledSpec, {"patience": 4.0, "aligned": 0.05, "use_alignment": True, "give_up": None}),
    (FileSpec, {"reduce_to_span": False}),
    (ImportedDataSpec, {"arguments": {}, "folder": None, "reduce_to_span": False}),
    (ImportedModelSpec, {"arguments": {}, "folder": None}),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "trajectory": {"name": ""},
    "feature_learning": {},
    "jacobian_spectrum": {"points": 256},
    "modular_arithmetic": {"num_frequencies": 5},
    "regions": {"triples": 10, "pictured": (0,), "radius": 1.0},
    "representation": {"probe": None, "kernels": None, "shift": None, "embed": None},
    "robustness": {"attack": "apgd", "norm": "Linf", "eps": 4 / 255, "num_points": 256, "seed": 0},
    "row_alignment": {"points": 1000, "against": None, "published": None},
    "scaling": {},
    "theorems": {"networks": 20, "seed": 0},
}


def test_an_experiment_that_says_next_to_nothing_is_this_one() -> None:
    said = {"name": "small", "title": "Small", "arms": {"one": {"data": {"name": "digits"}}}}
    assert Experiment.model_validate(said).model_dump() == EXPERIMENT


@pytest.mark.parametrize(
    ("section", "expected"), SECTIONS, ids=lambda of: getattr(of, "__name__", "")
)
def test_the_defaults_of_a_section(section: type[Strict], expected: dict[str, Any]) -> None:
    fields = section.model_fields.items()
    found = {name: of.get_default(call_default_factory=True) for name, of in fields}
    assert {name: found[name] for name, of in fields if not of.is_required()} == expected


def test_every_model_and_method_has_its_defaults_here() -> None:
    assert {*MODEL_SPECS.values(), *METHOD_SPECS.values()} <= {section for section, _ in SECTIONS}


def test_the_options_of_an_analysis() -> None:
    parameters = {name: signature(of).parameters.values() for name, of in ANALYSES.items()}
    assert {
        name: {own.name: own.default for own in of if own.default is not Parameter.empty}
        for name, of in parameters.items()
    } == OPTIONS


def test_what_a_run_and_a_job_of_a_sweep_are_given() -> None:
    own = signature(run_experiment).parameters.values()
    assert {of.name: of.default for of in own if of.default is not Parameter.empty} == {
        "device": "auto",
        "resume": False,
        "data_dir": None,
        "workers": 1,
        "observer": None,
    }
    assert Job("folder", 3) == Job("folder", 3, device="auto", data_dir=None, threads=None)
