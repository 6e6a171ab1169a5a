"""Run directories as training would leave them, made up in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grokscope.runs import RunDirectory, Trial

MEMORIZED, GENERALIZED = 0.99, 0.9
SHAPE = (8, 8)


def spec(**changes: Any) -> dict[str, Any]:
    """A spec as the runner resolves it."""
    data = {"name": "digits", "train": 300, "test": 1497}
    model = {"name": "mlp", "widths": [64, 128, 128, 10], "weight_scale": 8.0}
    training = {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01, "batch_size": 200}
    shared = {"data": data, "model": model, "training": training, "monitor": {"probe": 8}}
    return {
        "name": "digits-grokking",
        "title": "Grokking on real handwritten digits",
        "description": (
            "The same network is trained twice on 300 handwritten digits, once with weight decay "
            "alone and once with GrokAlign. Both soon know the training images by heart; the "
            "question is when they understand digits that they have never seen."
        ),
        "source": "Walker, Humayun, Balestriero, Baraniuk 2025, Figure 7",
        "reproduces": None,
        "preset": "paper",
        "seeds": [0],
        "milestones": {
            "memorized": {"metric": "train_accuracy", "target": MEMORIZED},
            "generalized": {"metric": "test_accuracy", "target": GENERALIZED},
        },
        "arms": {
            "baseline": {"title": "Weight decay alone", "methods": [], **shared},
            "grokalign": {
                "title": "GrokAlign",
                "methods": [{"name": "grokalign", "weight": 0.001, "mode": "minimize"}],
                **shared,
            },
        },
        "claims": [
            {
                "says": "GrokAlign generalizes at least 5 times sooner than weight decay alone",
                "source": "GrokAlign, Section 4",
                "quantity": {"kind": "speed_up", "arm": "grokalign", "target": GENERALIZED},
                "at_least": 5,
            },
            {
                "says": "Weight decay alone ends above 95 % test accuracy",
                "source": "our own expectation",
                "quantity": {"kind": "value", "arm": "baseline", "metric": "test_accuracy"},
                "at_least": 0.95,
            },
            {
                "says": "Regions grow around the training points",
                "quantity": {"kind": "result", "name": "regions.growth"},
                "at_least": 1.5,
            },
        ],
        **changes,
    }


def schedule(last: int, per_decade: int = 12) -> list[int]:
    """Log-spaced steps with 0 and the last one."""
    decades = math.log10(last)
    steps = {round(10 ** (i / per_decade)) for i in range(int(decades * per_decade) + 1)}
    return sorted({0, *steps, last})


def sigmoid(step: int, middle: float, slope: float = 6.0) -> float:
    """A curve from 0 to 1 on log steps."""
    return 1 / (1 + math.exp(-slope * (math.log10(step + 0.5) - math.log10(middle))))


def measured(last: int) -> list[int]:
    """The steps at which a monitor looks: every other one of the evaluations."""
    return schedule(last, per_decade=6)


def evaluation(step: int, memorize: float, generalize: float) -> dict[str, float]:
    """Accuracy and loss of a network that memorizes first and generalizes later."""
    known = sigmoid(step, memorize / 2.2)
    understood = sigmoid(step, generalize / 1.5, 9.0)
    return {
        "train_loss": 40 * (1 - known) ** 2 + 1e-4,
        "train_accuracy": round(0.1 + 0.9 * known, 4),
        "test_loss": 45 * (1 - understood) + 3 * known * (1 - understood) + 0.4,
        "test_accuracy": round(0.1 + 0.3 * known + 0.53 * understood, 4),
    }


def measures(step: int, generalize: float) -> dict[str, float]:
    """What a monitor adds to the rows of its own steps."""
    understood = sigmoid(step, generalize / 1.5, 9.0)
    alignment = 0.05 + 0.6 * understood
    norm = 60 - 52 * understood
    return {
        "jacobian_norm": norm,
        "jacobian_norm_min": 0.7 * norm,
        "jacobian_norm_max": 1.4 * norm,
        "jacobian_pc1": 0.2 + 0.5 * understood,
        "jacobian_pc1_min": 0.15 + 0.4 * understood,
        "jacobian_pc1_max": 0.3 + 0.6 * understood,
        "centroid_alignment": alignment,
        "centroid_alignment_min": alignment - 0.2,
        "centroid_alignment_max": alignment + 0.15,
        "centroid_norm": 0.8 * norm,
        "centroid_norm_min": 0.5 * norm,
        "centroid_norm_max": 1.1 * norm,
        "weight_norm": 210 - 60 * understood,
    }


def probe(shape: Sequence[int], count: int = 8) -> dict[str, torch.Tensor]:
    """Pictures that one can tell apart: a bright bar at a different place in each."""
    x = torch.zeros(count, *shape)
    for i in range(count if len(shape) > 1 else 0):
        x[i, ..., :, i % shape[-1]] = 1.0
        x[i, ..., i % shape[-2], :] = 0.6
    return {"x": x, "y": torch.arange(count)}


def train(
    trial: Trial,
    memorize: float,
    generalize: float,
    last: int,
    shape: Sequence[int] | None = SHAPE,
    seconds_per_step: float = 0.0028,
) -> None:
    """Write what a training leaves behind, up to and with ``last``."""
    noise = torch.Generator().manual_seed(trial.seed)
    points = None if shape is None else probe(shape)
    if points is not None:
        trial.save_arrays("probe", points)
    for step in schedule(last):
        seconds = seconds_per_step * step
        row = {"step": step, **evaluation(step, memorize, generalize)}
        looked = step in measured(last)
        if looked:
            row |= measures(step, generalize)
        trial.append(row, {"train_seconds": seconds, "total_seconds": 1.1 * seconds + 0.1})
        if points is not None and looked:
            share = sigmoid(step, generalize / 1.5, 9.0)
            random = torch.randn(points["x"].shape, generator=noise)
            centroids = share * points["x"] + (1 - share) * random
            trial.save_arrays(f"step-{step:08d}", {"centroids": centroids})


def finish(trial: Trial, last: int, stopped: str = "target") -> None:
    """Note that a training is over."""
    trial.finish(stopped=stopped, steps=last, train_seconds=0.0028 * last)


def grokking(
    path: Path,
    seeds: Sequence[int] = (0,),
    shape: Sequence[int] | None = SHAPE,
    **changes: Any,
) -> Path:
    """A finished run: the baseline generalizes after about 8,800 steps, GrokAlign after 800."""
    with RunDirectory.create(path, spec(seeds=list(seeds), **changes), "cpu", list(seeds)) as run:
        for seed in seeds:
            later = 1 + 0.15 * seed
            for arm, memorize, generalize, last in (
                ("baseline", 150, 8000 * later, 20000),
                ("grokalign", 120, 800 * later, 3000),
            ):
                trial = run.trial(arm, seed)
                train(trial, memorize, generalize, last, shape)
                finish(trial, last)
    return path


def never_generalized(path: Path, **changes: Any) -> Path:
    """A finished run whose baseline stays where it memorized."""
    with RunDirectory.create(path, spec(**changes), "cpu", [0]) as run:
        for arm, generalize, last in (("baseline", 1e9, 20000), ("grokalign", 800, 3000)):
            trial = run.trial(arm, 0)
            train(trial, 150, generalize, last)
            finish(trial, last, "max_steps" if arm == "baseline" else "target")
    return path


def killed(path: Path, **changes: Any) -> Path:
    """A run killed while its first arm trained: state running, nobody at work, a torn line."""
    run = RunDirectory.create(path, spec(**changes), "cpu", [0])
    train(run.trial("baseline", 0), 150, 8000, 500)
    run._lock.release()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"arm": "baseline", "se')
    return path


def started(path: Path, **changes: Any) -> Path:
    """A run interrupted before its first evaluation."""
    run = RunDirectory.create(path, spec(**changes), "cpu", [0])
    run.close("interrupted")
    return path


def change_spec(base: Mapping[str, Any], arm: str, part: str, **values: Any) -> dict[str, Any]:
    """``arms`` of a spec with some settings of one part of an arm changed."""
    arms = {name: dict(entry) for name, entry in base["arms"].items()}
    arms[arm][part] = {**arms[arm][part], **values}
    return arms
