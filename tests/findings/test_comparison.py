"""When a ratio of two times says which of the two is longer."""

from __future__ import annotations

import math

import pytest

from grokscope.findings.statistics import SeedValues
from grokscope.findings.summary import Comparison


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2.0, 2.0, True),
        (1.0, 1.0, True),  # known to be as long
        (1.5, math.inf, True),
        (0.4, 0.9, True),
        (0.5, 2.0, False),
        (1.0, 2.0, False),  # longer or as long
        (0.5, 1.0, False),
        (0.0, 0.5, False),  # the baseline was there at the first evaluation
        (0.0, math.inf, False),
        (math.inf, math.inf, False),
    ],
)
def test_a_comparison_is_informative_where_it_decides(
    low: float, high: float, expected: bool
) -> None:
    assert Comparison(SeedValues((low,), (high,)), None, None).is_informative is expected
