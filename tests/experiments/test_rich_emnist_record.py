"""Our run of the paper's EMNIST training beside the authors' own record of it, by the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.findings import onset
from grokscope.runs import History

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "rich-emnist.json"
STEPS_AN_EPOCH = 16
OUTPUT = {name: f"test_{name}/linear4" for name in ("capacity", "radius", "dimension")}


@pytest.fixture(scope="module")
def theirs(shared_reference: Path) -> dict[str, Any]:
    """Their record of output scale 0.5."""
    recorded = json.loads((shared_reference / "rich_regime_emnist.json").read_text())
    return recorded["runs"]["AdamW-10-2000-0.5-0"]


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """Ours."""
    return json.loads(RESULTS.read_text())["arms"]["outputs-half"]


def test_the_onset_is_theirs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    curves = theirs["curves"]
    columns = curves["epoch"], curves["train_accuracies"], curves["test_accuracies"]
    found = onset(
        History(
            {
                "step": int(epoch) * STEPS_AN_EPOCH,
                "train_accuracy": train / 100,
                "test_accuracy": test / 100,
            }
            for epoch, train, test in zip(*columns, strict=True)
        )
    )
    assert ours["middle"] == pytest.approx(found.middle, rel=0.05)
    assert ours["end"] == pytest.approx(found.end, rel=0.1)
    assert ours["highest_test_accuracy"] == pytest.approx(
        max(curves["test_accuracies"]) / 100, abs=0.02
    )


@pytest.mark.parametrize("name", OUTPUT)
def test_the_output_begins_and_ends_as_theirs(
    ours: dict[str, Any], theirs: dict[str, Any], name: str
) -> None:
    own = [row[OUTPUT[name]] for row in ours["evaluations"] if row.get(OUTPUT[name]) is not None]
    first, *_, last = [row[name] for row in theirs["manifold"]["layers.6"]]
    assert own[0] == pytest.approx(first, rel=0.05)
    assert own[-1] == pytest.approx(last, rel=0.08)
    assert len(own) >= 12


def test_the_kernel_moves_as_far_as_theirs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    own = {row["step"]: row.get("ntk_distance_init") for row in ours["evaluations"]}
    epochs = [row["step"] for row in theirs["manifold"]["layers.6"]]
    # from their first trained kernel: the initial one is that of a network made anew
    recorded = theirs["kernel_distance_train"][1][1:]
    distances = dict(zip(np.multiply(epochs, STEPS_AN_EPOCH), recorded, strict=True))
    shared = sorted(set(distances) & {step for step, value in own.items() if value is not None})
    assert len(shared) >= 8
    for step in shared:
        if step >= 1600:
            assert own[step] == pytest.approx(distances[step], abs=0.04), step
