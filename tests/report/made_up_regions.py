"""A run whose arms have stored the linear regions of small networks at a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import grokscope as gs
from grokscope.experiments.analyses.region_pictures import picture, setting
from grokscope.runs import RunDirectory
from tests.report import made_up_runs

STEPS = {"baseline": (0, 10, 100, 1000), "grokalign": (0, 10, 100)}
RADIUS = 0.75
PANEL = {"kind": "regions", "title": "A slice through three points", "slice": 0}


def points(shape: tuple[int, ...] | None = (1, 2, 3)) -> tuple[Tensor, Tensor, gs.Slice]:
    """Three points in general position, their labels and the slice through them."""
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3)) + 0.5
    return x, torch.tensor([2, 0, 3]), gs.Slice.through(*x)


def network(arm: str, step: int) -> torch.nn.Module:
    """A network that stands for an arm at a step: its weights shrink as training goes on."""
    model = gs.MLP(6, [12, 9], 4, seed=len(arm))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3 / (1 + step) ** 0.2
    return model


def stored(arm: str, step: int, shape: tuple[int, ...] | None = (1, 2, 3)) -> dict[str, Tensor]:
    """What the analysis stores of a step."""
    x, y, plane = points()
    return picture(network(arm, step), x, y, plane, RADIUS, shape)


def run(path: Path, shape: tuple[int, ...] | None = (1, 2, 3), **changes: Any) -> Path:
    """A finished run with the regions of slice 0 in both arms."""
    made_up_runs.grokking(path, shape=None, **{"panels": [PANEL], **changes})
    directory = RunDirectory.resume(path, "cpu")
    x, y, plane = points()
    for arm, steps in STEPS.items():
        trial = directory.trial(arm, 0)
        trial.save_arrays("slice-0", setting(x, y, plane, RADIUS, shape))
        for step in steps:
            trial.save_arrays(f"slice-0-step-{step:08d}", stored(arm, step, shape))
    directory.close("finished")
    return path
