"""Numbers as people read them, at the places where their form changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from grokscope.findings.statistics import Interval, SeedValues
from grokscope.report import wording

NONE = wording.NOTHING


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (wording.count, 1234567.4, "1,234,567"),
        (wording.number, 0, "0"),
        (wording.number, -3.0, "-3"),
        (wording.number, 999.4, "999"),
        (wording.number, 999.6, "1,000"),
        (wording.number, 1000.4, "1,000"),
        (wording.number, -1234.5, "-1,234"),
        (wording.number, 999_999.4, "999,999"),
        (wording.number, 1_000_000.5, "1e+06"),
        (wording.number, 999_999_999.0, "999,999,999"),
        (wording.number, 1e9, "1e+09"),
        (wording.number, 12.345, "12.3"),
        (wording.number, 1.5e-7, "1.5e-07"),
        (wording.number, math.inf, NONE),
        (wording.number, math.nan, NONE),
        (wording.percent, 0.12345, "12.3 %"),
        (wording.percent, 1.0, "100.0 %"),
        (wording.percent, math.nan, NONE),
        (wording.duration, 0.996, "1.00 s"),
        (wording.duration, 1.0, "1.0 s"),
        (wording.duration, 99.94, "99.9 s"),
        (wording.duration, 99.96, "1 min 40 s"),
        (wording.duration, 120, "2 min"),
        (wording.duration, 3599.4, "59 min 59 s"),
        (wording.duration, 3599.6, "1 h"),
        (wording.duration, 3630, "1 h"),  # half a minute, to the even one
        (wording.duration, 7261, "2 h 1 min"),
        (wording.duration, math.inf, NONE),
        (wording.ratio, 9.94, "9.9"),
        (wording.ratio, 9.96, "10"),
        (wording.ratio, 0.44, "0.44"),
        (wording.ratio, 0.028, "0.028"),
        (wording.ratio, 0.996, "1.0"),
        (wording.ratio, 0, "0"),
        (wording.listed, [], ""),
        (wording.listed, ["a"], "a"),
        (wording.listed, ["a", "b"], "a and b"),
    ],
)
def test_a_value_in_words(write: Callable[[Any], str], value: Any, text: str) -> None:
    assert write(value) == text


def test_a_metric_is_written_as_what_it_is() -> None:
    assert wording.metric_value("probe_accuracy", 0.5) == "50.0 %"
    assert wording.metric_value("accuracy_gap", 0.5) == "0.5"
    assert wording.target_value("weight_norm", 1500) == "1,500"
    assert wording.metric_name("test_accuracy_of_all") == "test accuracy of all"
    assert wording.listed(["a", "b", "c"], "or") == "a, b or c"


def test_seeds_in_a_cell() -> None:
    known = SeedValues.censored([100, 300, 200], limits=[900] * 3)
    some = SeedValues.censored([100, None, None], limits=[900] * 3)
    assert wording.steps_text(known) == "200 steps"
    assert wording.steps_text(some) == "at least 900 steps"
    none = SeedValues.censored([None, None], limits=[900, 900])
    assert wording.steps_text(none) == "not in 900"
    assert wording.steps_text(none, ">") == "> 900"
    assert wording.range_text(known) == "100–300"
    assert wording.range_text(some) == "1 of 3 seeds"
    assert wording.range_text(SeedValues((5.0,), (5.0,))) is None
    assert wording.range_text(SeedValues((5.0, 5.0), (5.0, 5.0))) is None
    assert wording.range_text(SeedValues((5.0, 6.0), (5.0, 6.0))) == "5–6"
    assert wording.seconds_text(known) == "3 min 20 s"
    assert wording.seconds_text(some) is None
    assert wording.seconds_text(SeedValues((math.nan,), (math.nan,))) is None
    assert wording.ratio_text(Interval(2.0, math.inf), "time") == "> 2.0× time"
    assert wording.spread_text("test_accuracy", None) == NONE
    assert wording.spread_text("test_accuracy", SeedValues((math.nan,), (math.nan,))) == NONE
    assert wording.spread_text("test_accuracy", SeedValues((0.5, 0.7), (0.5, 0.7))) == "60.0 %"
