"""The time to a target, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from pydantic import TypeAdapter, ValidationError

from grokscope.findings import Interval, Target
from grokscope.findings.target import TargetSection, TimeSection
from grokscope.runs import History

TARGET = Target("test_accuracy", 0.9)


def history(points: Sequence[tuple[int, float]], seconds_per_step: float = 0.1) -> History:
    return History(
        {"step": step, "test_accuracy": value, "train_seconds": seconds_per_step * step}
        for step, value in points
    )


REACHED = history([(0, 0.1), (10, 0.5), (100, 0.9), (200, 0.95)])
CENSORED = history([(0, 0.1), (20, 0.5), (60, 0.8)])


def test_a_target_is_reached_at_or_above_it() -> None:
    assert TARGET.is_reached({"test_accuracy": 0.9})
    assert not TARGET.is_reached({"test_accuracy": 0.8999})
    assert not TARGET.is_reached({"test_accuracy": None})
    assert not TARGET.is_reached({"test_accuracy": math.nan})
    assert not TARGET.is_reached({"train_accuracy": 1.0})
    assert (TARGET.first_step(REACHED), TARGET.first_step(CENSORED)) == (100, None)
    assert Target("loss", 0.0).first_step(REACHED) is None


def test_steps_and_seconds_of_each_seed_and_the_end_of_a_censored_one() -> None:
    steps = TARGET.time_to([REACHED, CENSORED])
    assert steps.intervals == [(100, 100), (60, math.inf)]
    seconds = TARGET.time_to([REACHED, CENSORED], "seconds")
    assert seconds.intervals == [(10, 10), (6, math.inf)]


NAN = math.nan
UNTESTED = {"step": 5000, "train_loss": 0.1}
STOPPED = {
    "no test after step 10": ([0.1, 0.2], [UNTESTED], 10),
    "not a number from step 20 on": ([0.1, 0.2, NAN, NAN], [], 10),
    "never a number": ([NAN, NAN], [UNTESTED], 0),
    "never tested": ([], [UNTESTED], 0),
}


@pytest.mark.parametrize(("tested", "after", "known"), STOPPED.values(), ids=list(STOPPED))
def test_a_seed_is_censored_where_its_metric_was_last_known(
    tested: list[float], after: list[dict[str, float]], known: float
) -> None:
    rows = [*history([(10 * i, value) for i, value in enumerate(tested)]), *after]
    steps = TARGET.time_to([History(rows)])
    assert steps.intervals == [(known, math.inf)]
    assert steps.median.text() == ("at least 10" if known else "unknown")
    # one such seed leaves the median of the others known
    assert TARGET.time_to([History(rows), REACHED, REACHED]).median == (100, 100)


def test_time_counts_from_where_the_metric_first_is_at_a_level() -> None:
    assert TARGET.time_to([REACHED, CENSORED], since=0.4).intervals == [(90, 90), (40, math.inf)]
    # One that has not come to that level yet has not run for any time since.
    assert TARGET.time_to([CENSORED], since=0.85).intervals == [(0, math.inf)]


def test_three_seeds_one_of_them_censored_have_one_median() -> None:
    seeds = [
        history([(0, 0.1), (5000, 0.9)]),
        history([(0, 0.1), (9000, 0.9)]),
        history([(0, 0.1), (6000, 0.5)]),
    ]
    steps = TARGET.time_to(seeds)
    assert steps.median == Interval(6000, 9000)
    assert steps.median.text() == "6,000 to 9,000"
    assert steps.median.value is None


def test_seconds_that_were_not_recorded_are_unknown() -> None:
    bare = History({"step": step, "test_accuracy": 0.95} for step in (0, 5))
    assert TARGET.time_to([bare]).median == Interval(0, 0)
    assert TARGET.time_to([bare], "seconds").median.text() == "unknown"


def test_a_target_is_read_from_a_spec() -> None:
    read = TypeAdapter(dict[str, TargetSection]).validate_python
    assert read({"early": {"metric": "loss", "target": 1}})["early"].goal == Target("loss", 1.0)
    with pytest.raises(ValidationError, match="metrics"):
        read({"early": {"metrics": "loss", "target": 1}})
    with pytest.raises(ValidationError, match="valid number"):
        read({"early": {"metric": "loss", "target": "low"}})


@pytest.mark.parametrize("target", [85, -0.1, 1.001])
def test_an_accuracy_is_a_fraction(target: float) -> None:
    with pytest.raises(ValueError, match=r"test_accuracy runs from 0 to 1: got .*; 85 % is 0\.85"):
        Target("test_accuracy", target)
    assert Target("train_loss", target).target == target


def test_a_loss_reaches_its_target_from_above() -> None:
    rows = History({"step": s, "train_loss": v} for s, v in [(0, 2.0), (10, 1.0), (20, 0.4)])
    target = Target("train_loss", 0.5)
    assert (target.first_step(rows), target.is_reached(rows.rows[1])) == (20, False)
    assert target.time_to([rows]).median == (20, 20)
    assert target.time_to([rows], since=1.5).median == (10, 10)
    assert Target("train_loss", 0.1).time_to([rows]).median == (20, math.inf)
    assert not target.is_reached({"train_loss": math.nan})


@pytest.mark.parametrize(
    ("metric", "target", "since", "side"),
    [("test_accuracy", 0.5, 0.9, "below"), ("x", 3, 3, "below"), ("train_loss", 0.5, 0.1, "above")],
)
def test_time_is_counted_from_what_comes_first(
    metric: str, target: float, since: float, side: str
) -> None:
    said = f"since must lie {side} the target of {metric}, {target:g}: got {since:g}"
    with pytest.raises(ValueError, match=said):
        Target(metric, target).time_to([REACHED], since=since)
    with pytest.raises(ValidationError, match=said):
        TimeSection(metric=metric, target=target, since=since)
