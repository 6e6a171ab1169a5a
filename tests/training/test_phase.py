"""Phases of curves whose phases are plain to see."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.runs import History
from grokscope.training.phase import phase

STEPS = [round(10 ** (i / 12)) for i in range(12, 60)]


def grokking(until: int, alignment: bool = True) -> History:
    """Memorizes at 100 steps; test accuracy rises from 3,000 to 20,000, alignment from 1,000."""
    rows = []
    for step in STEPS:
        if step > until:
            break
        log = np.log10(step)
        row = {
            "step": step,
            "train_accuracy": float(np.clip(log - 1, 0.1, 1.0)),
            "test_accuracy": float(np.interp(log, [3.5, 4.3], [0.3, 0.9])),
        }
        if alignment:
            row["centroid_alignment"] = float(np.interp(log, [3.0, 4.3], [0.05, 0.7]))
        rows.append(row)
    return History(rows)


@pytest.mark.parametrize(
    ("until", "name", "aligning"),
    [
        (50, "fitting", False),
        (800, "memorized", False),
        (2500, "memorized", True),
        (10_000, "generalizing", True),
        (80_000, "settled", False),
    ],
)
def test_delayed_generalization(until: int, name: str, aligning: bool) -> None:
    found = phase(grokking(until))
    assert (found.name, found.aligning) == (name, aligning)
    assert name in str(found)


def test_without_alignment_nothing_is_said_of_it() -> None:
    found = phase(grokking(10_000, alignment=False))
    assert found.name == "generalizing"
    assert found.aligning is None
    assert "align" not in str(found)


def test_without_test_data_fitted_is_all_that_can_be_said() -> None:
    history = History({"step": s, "probe_accuracy": min(1.0, s / 100)} for s in STEPS)
    assert phase(history).name == "fitted"


def test_generalization_without_delay_settles() -> None:
    curve = [float(np.interp(np.log10(s), [1, 2], [0.1, 1.0])) for s in STEPS]
    rows = [
        {"step": s, "train_accuracy": a, "test_accuracy": 0.95 * a}
        for s, a in zip(STEPS, curve, strict=True)
    ]
    assert phase(History(rows)).name == "settled"


def test_one_noisy_reading_does_not_change_the_phase() -> None:
    history = grokking(800)
    history.rows[-1]["test_accuracy"] += 0.1
    assert phase(history).name == "memorized"
