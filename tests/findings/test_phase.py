"""Phases of curves whose phases are plain to see."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.findings.phase import PHASES, phase, phases
from grokscope.findings.settled import StopWhenSettled
from grokscope.runs import History

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
        (90_000, "settled", False),
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
    found = phase(history)
    assert (found.name, found.step, found.since) == ("fitted", STEPS[-1], 121)
    assert str(found) == (
        f"fitted at step {STEPS[-1]:,} since step 121: training accuracy 100.0%; "
        "test accuracy is not known: give the monitor test=(x, y)"
    )
    assert np.isnan(found.test_accuracy)


def at_once() -> History:
    """Generalizes as it fits; alignment is not recorded."""
    curve = [float(np.interp(np.log10(s), [1, 2], [0.1, 1.0])) for s in STEPS]
    return History(
        {"step": s, "train_accuracy": a, "test_accuracy": 0.95 * a}
        for s, a in zip(STEPS, curve, strict=True)
    )


def test_without_alignment_nothing_is_called_settled_unless_a_rule_says_so() -> None:
    found = phase(at_once())
    assert (found.name, found.waits_for) == ("generalizing", "row_alignment")
    assert "alignment was not recorded" in str(found)
    by_accuracy = phase(at_once(), StopWhenSettled(use_alignment=False))
    assert (by_accuracy.name, by_accuracy.waits_for) == ("settled", None)


def test_one_noisy_reading_does_not_change_the_phase() -> None:
    history = grokking(800)
    history.rows[-1]["test_accuracy"] += 0.1
    assert phase(history).name == "memorized"


def upto(history: History, rows: int) -> History:
    return History(history.rows[:rows])


def test_settled_is_said_first_where_the_rule_stops() -> None:
    history, rule = grokking(STEPS[-1]), StopWhenSettled()
    stops = [row["step"] for i, row in enumerate(history, 1) if rule(upto(history, i))]
    told = phases(history)
    assert next(each.step for each in told if each.name == "settled") == stops[0]
    assert told[-1].name == "settled"
    assert rule.reason(history) == told[-1].reason


def test_what_is_said_at_a_row_is_of_the_rows_so_far() -> None:
    """So that a monitor that was stopped and resumed says the same as one that was not."""
    history = grokking(STEPS[-1])
    told = phases(history)
    for rows in (1, 10, 25, 40, len(history)):
        assert phase(upto(history, rows)) == told[rows - 1]
        assert phase(upto(history, rows)).since == told[rows - 1].since


def test_noise_does_not_make_it_go_back() -> None:
    """Measurements of 2,048 points have a standard error of up to 1.1 points."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        history = grokking(STEPS[-1])
        for row in history.rows:
            row["test_accuracy"] += generator.normal(0, 0.008)
        places = [PHASES.index(each.name) for each in phases(history)]
        assert sorted(places) == places


def test_it_goes_back_once_where_test_accuracy_rises_after_all() -> None:
    history = grokking(STEPS[-1])
    for step in (100_000, 110_000, 120_000, 130_000, 140_000):
        row = {"step": step, "train_accuracy": 1.0, "test_accuracy": 0.9 + step / 2e6}
        history.append({**row, "centroid_alignment": 0.7})
    names = [each.name for each in phases(history)]
    assert names[len(STEPS) - 1] == "settled"
    assert names[-1] == "generalizing"


def test_a_plateau_half_way_up_without_alignment_is_memorization() -> None:
    """Weight decay alone on MNIST: 79 % test accuracy, standing still, long before it rises."""
    history = grokking(800)
    for row in history.rows:
        row["test_accuracy"] = 0.79 * min(1.0, row["train_accuracy"])
    found = phase(history)
    assert (found.name, found.waits_for) == ("memorized", "centroid_alignment")
    assert found.reason == "the network has not aligned with its training data"


def test_three_measurements_that_rise_are_a_rise() -> None:
    rows = zip((60, 80, 100), (0.3, 0.6, 0.9), (0.1, 0.5, 0.9), strict=True)
    history = History([{"step": 0, "train_accuracy": 1.0, "test_accuracy": 0.2}])
    for step, accuracy, cosine in rows:
        history.append({"step": step, "train_accuracy": 1.0, "test_accuracy": accuracy})
        history.rows[-1]["row_alignment"] = cosine
    found = phase(history)
    assert found.test_accuracy == 0.9, "the last one, not a median"
    assert found.test_accuracy_gain == pytest.approx(0.6)
    assert found.aligning
    assert "+60.0 points since step 60" in str(found)


def test_it_says_that_it_does_not_know_where_there_are_too_few_measurements() -> None:
    steps = (1, 10, 100, 1000, 10_000)
    rows = [
        {"step": s, "train_accuracy": 1.0, "test_accuracy": 0.95, "row_alignment": 0.1 * i}
        for i, s in enumerate(steps)
    ]
    found = phase(History(rows))
    assert np.isnan(found.test_accuracy_gain)
    assert found.aligning is None
    assert "too few measurements to tell whether it rises" in str(found)
    assert (found.name, found.waits_for) == ("generalizing", "test_accuracy")
    assert found.reason.startswith("too few measurements to tell: 1 of test_accuracy")


def test_one_high_training_accuracy_may_be_an_outlier() -> None:
    rows = [{"step": s, "train_accuracy": a} for s, a in ((1, 0.5), (2, 0.995))]
    found = phase(History(rows))
    assert found.name == "fitting"
    assert "the next one tells" in found.reason
    rows.append({"step": 3, "train_accuracy": 0.7})
    assert phase(History(rows)).name == "fitting"


def test_accuracies_in_per_cent_are_refused() -> None:
    rows = [{"step": s, "train_accuracy": 85.0, "test_accuracy": 60.0} for s in (1, 2)]
    with pytest.raises(ValueError, match="train_accuracy must hold fractions from 0 to 1"):
        phase(History(rows))


def test_a_rise_is_told_from_twice_the_steps_of_fitting() -> None:
    """The level that it rises from is not known before."""
    steps = range(100, 221, 10)
    rows = [
        {"step": s, "train_accuracy": 1.0, "test_accuracy": 0.3 + (s - 100) / 200} for s in steps
    ]
    told = {each.step: each.name for each in phases(History(rows))}
    assert told[190] == "memorized"
    assert told[200] == "generalizing"
