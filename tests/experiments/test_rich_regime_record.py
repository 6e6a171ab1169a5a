"""Our run of the paper's training beside the authors' own record of it, by the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.findings import onset
from grokscope.findings.onset import value_at
from grokscope.runs import History

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "rich-regime.json"


@pytest.fixture(scope="module")
def theirs(shared_reference: Path) -> tuple[History, History]:
    """Accuracy curves, and the geometry of the output with the kernel distance at its steps."""
    path = shared_reference / "rich_regime_mnist_output_scale.json"
    recorded = json.loads(path.read_text())["alpha_0_5"]
    curves = recorded["curves"]
    names = {"train_accuracies": "train_accuracy", "test_accuracies": "test_accuracy"}
    accuracy = History(
        {"step": int(step), **{name: curves[key][place] for key, name in names.items()}}
        for place, step in enumerate(curves["log_steps"])
    )
    distance = History(
        {"step": step, "kernel": value}
        for step, value in zip(
            recorded["checkpoints_steps"], recorded["kernel_distance_train"][0], strict=True
        )
    )
    geometry = History(
        {
            "step": look["step"],
            "kernel": value_at(distance, "kernel", look["step"]),
            "accuracy": value_at(accuracy, "test_accuracy", look["step"]),
            **{name: look[name] for name in ("capacity", "radius", "dimension")},
        }
        for look in recorded["manifold"]["mlp.5"]
    )
    return accuracy, geometry


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """The figures of our own run."""
    return json.loads(RESULTS.read_text())["experiments"]["rich-mnist (paper)"]


def test_the_onsets_agree(ours: dict[str, Any], theirs: tuple[History, History]) -> None:
    found = onset(theirs[0])
    own = ours["arms"]["outputs-half"]
    for moment in ("memorised", "start", "middle", "end"):
        assert own[moment] == pytest.approx(found.at(moment), rel=0.15)
    assert own["accuracy_before"] == pytest.approx(found.before, abs=0.02)
    assert own["accuracy_after"] == pytest.approx(found.after, abs=0.02)


def test_what_changes_over_the_onset_agrees(
    ours: dict[str, Any], theirs: tuple[History, History]
) -> None:
    accuracy, geometry = theirs
    found = onset(accuracy)
    measured = {claim["says"]: claim["value"] for claim in ours["claims"]}

    def change(name: str, at: float, over: float) -> float:
        return value_at(geometry, name, at) / value_at(geometry, name, over)

    for words, value, tolerance in (
        ("kernel has passed half", change("kernel", found.start, 1e5), 0.1),
        ("15 % from before training", change("capacity", found.start, 1), 0.1),
        ("15 % from memorising", change("capacity", found.start, found.memorised), 0.1),
        ("rises by more than 50 %", change("capacity", found.end, found.start), 0.2),
        ("radius falls", change("radius", found.end, found.start), 0.5),
        ("dimension falls", change("dimension", found.end, found.start), 0.2),
    ):
        (own,) = [measured[says] for says in measured if words in says and "x 0.5" in says]
        assert own == pytest.approx(value, rel=tolerance), words


def test_accuracy_goes_with_capacity_more_than_with_the_kernel(
    ours: dict[str, Any], theirs: tuple[History, History]
) -> None:
    geometry = theirs[1]
    capacity, kernel = (
        np.corrcoef(geometry["accuracy"], geometry[name])[0, 1] for name in ("capacity", "kernel")
    )
    own = ours["correlations"]["outputs-half"]
    assert own["capacity"][0] == pytest.approx(capacity, abs=0.05)
    assert kernel < capacity - 0.5
    assert own["kernel"][0] < own["capacity"][0] - 0.5
