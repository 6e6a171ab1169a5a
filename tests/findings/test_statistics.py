"""Statistics over seeds against scipy, closed forms, and every value that censoring allows."""

from __future__ import annotations

import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
import scipy.stats

from grokscope.findings.statistics import Interval, SeedValues, welch_p, wilcoxon_p

SLOW = [14500.0, 13900.0, 15200.0, 14100.0, 16000.0, 14900.0, 13700.0]
FAST = [900.0, 800.0, 1500.0, 700.0, 950.0, 20000.0, 600.0]


def exact(values: list[float]) -> SeedValues:
    return SeedValues.exact(values)


def test_known_values_are_summed_up_as_numpy_does() -> None:
    sample = exact(SLOW)
    assert sample.median == Interval(14500, 14500)
    assert sample.mean.low == sample.mean.high == pytest.approx(np.mean(SLOW))
    assert sample.std == pytest.approx(np.std(SLOW, ddof=1))
    assert sample.num_known == len(sample) == 7


def test_median_is_known_until_the_middle_is_censored() -> None:
    limits = [20000.0] * 5
    two = SeedValues.censored([100, None, 300, None, 200], limits)
    assert two.median == Interval(300, 300)
    three = SeedValues.censored([100, None, 300, None, None], limits)
    assert three.median == Interval(20000, math.inf)
    even = SeedValues.censored([100, None], limits[:2])
    assert even.median == Interval(10050, math.inf)


def test_mean_and_deviation_say_that_a_value_is_missing() -> None:
    sample = SeedValues.censored([100, None, 300], [500, 800, 500])
    assert sample.mean == Interval(400, math.inf)
    assert sample.std is None
    assert exact([5.0]).std is None


def test_a_limit_below_the_others_still_counts_as_a_bound() -> None:
    sample = SeedValues.censored([400, None, 600], [1000, 100, 1000])
    # The seed stopped at 100 may be the least or the greatest: the median is 400 to 600.
    assert sample.median == Interval(400, 600)
    assert sample.text() == "400 to 600 (100 or more), 2 of 3 reached"


def test_interval_of_the_median_is_the_one_of_the_binomial_law() -> None:
    # For odd n the bootstrap median is at most the k-th value where at least (n + 1) / 2 of n
    # draws are: P(Binomial(n, k / n) >= (n + 1) / 2).
    values, n = sorted(SLOW), len(SLOW)
    at_most = [scipy.stats.binom.sf((n + 1) / 2 - 1, n, k / n) for k in range(1, n + 1)]
    low = values[next(k for k, p in enumerate(at_most) if p >= 0.025)]
    high = values[next(k for k, p in enumerate(at_most) if p >= 0.975)]
    assert exact(SLOW).interval() == Interval(low, high)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_agrees_with_scipy(statistic: str) -> None:
    theirs = scipy.stats.bootstrap(
        (SLOW,), getattr(np, statistic), method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    ours = exact(SLOW).interval(statistic)
    assert ours is not None
    assert ours.low == pytest.approx(theirs.low, rel=0.005)
    assert ours.high == pytest.approx(theirs.high, rel=0.005)


def test_interval_is_the_same_each_time_and_follows_its_arguments() -> None:
    sample = exact(SLOW)
    assert sample.interval("mean") == sample.interval("mean")
    assert sample.interval("mean", seed=1) != sample.interval("mean")
    narrow, wide = sample.interval("mean", level=0.5), sample.interval("mean", level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert exact([5.0]).interval() is None
    with pytest.raises(ValueError, match=r"level .* got 95"):
        sample.interval(level=95)


def test_interval_of_many_seeds_takes_little_memory_for_the_same_draws() -> None:
    values = np.random.default_rng(0).normal(size=1500)
    drawn = np.random.default_rng(0).integers(1500, size=(2000, 1500))
    means = np.sort(values[drawn].mean(axis=1))
    tracemalloc.start()
    found = exact(values.tolist()).interval("mean", level=0.5, resamples=2000)
    assert tracemalloc.get_traced_memory()[1] < 25e6  # 48e6 if all were drawn at once
    tracemalloc.stop()
    assert found == Interval(means[499], means[1499])


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_holds_those_of_all_values_that_censoring_allows(statistic: str) -> None:
    values, limits = [100, None, 250, None, 300, 90], [0, 180, 0, 260, 0, 0]
    interval = SeedValues.censored(values, limits).interval(statistic)
    for hidden in product([180, 200, 400, 1e9], [260, 270, 1e9]):
        filled = iter(hidden)
        one = exact([next(filled) if v is None else v for v in values]).interval(statistic)
        assert interval.low <= one.low
        assert one.high <= interval.high


def test_ratios_are_paired_and_bounded() -> None:
    slow = SeedValues.censored([1000, None, 1000, None], [5000, 5000, 5000, 5000])
    fast = SeedValues.censored([100, 200, None, None], [500, 500, 400, 400])
    ratios = slow.over(fast)
    assert ratios.lows == (10, 25, 0, 0)
    assert ratios.highs == (10, math.inf, 2.5, math.inf)
    assert ratios.num_known == 1
    assert [ratio.text("{:g}×".format) for ratio in ratios.intervals] == [
        "10×",
        "at least 25×",
        "at most 2.5×",
        "unknown",
    ]
    assert exact([5.0]).over(exact([0.0])).lows == (math.inf,)


def test_zero_over_zero_says_nothing_and_leaves_the_other_seeds_their_median() -> None:
    ratios = exact([0.0, 8.0, 6.0]).over(exact([0.0, 2.0, 2.0]))
    assert ratios.intervals == [(0, math.inf), (4, 4), (3, 3)]
    assert ratios.median == (3, 4)
    assert exact([0.0]).over(exact([0.0])).text() == "unknown"
    assert exact([math.nan]).over(exact([0.0])).text() == "unknown"


def test_a_ratio_to_zero_is_infinite_and_has_no_deviation() -> None:
    ratios = exact([300.0, 500.0]).over(exact([0.0, 0.0]))
    assert ratios.text("{:.0f}x".format) == "infinite, all 2 reached"
    assert (ratios.mean.text(), ratios.std) == ("infinite", None)
    one = exact([300.0, 500.0]).over(exact([0.0, 100.0]))
    assert one.text(done=None) == "infinite (5 or more)"
    assert one.std is None


def test_welch_is_the_one_of_scipy_and_of_the_formula() -> None:
    p = welch_p(exact(SLOW), exact(FAST[:5]))
    assert p == pytest.approx(scipy.stats.ttest_ind(SLOW, FAST[:5], equal_var=False).pvalue)
    a, b = np.array(SLOW), np.array(FAST[:5])
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    t = (a.mean() - b.mean()) / math.sqrt(va + vb)
    assert p == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom))


def test_welch_has_no_answer_without_means_and_variances() -> None:
    assert welch_p(exact(SLOW), SeedValues.censored([1, None], [2, 2])) is None
    assert welch_p(exact([1.0]), exact(SLOW)) is None
    assert welch_p(exact([1.0, 1.0]), exact([2.0, 2.0])) is None
    # Of seeds that all reach the target at the same evaluation it has.
    assert 0 < welch_p(exact([20.0, 20.0, 20.0]), exact([35.0, 40.0])) < 1


def test_wilcoxon_is_the_one_of_scipy_and_of_all_signs() -> None:
    p = wilcoxon_p(exact(SLOW), exact(FAST))
    assert p.is_exact
    assert p.low == pytest.approx(scipy.stats.wilcoxon(SLOW, FAST).pvalue)
    ranks = scipy.stats.rankdata(np.abs(np.subtract(SLOW, FAST)))
    observed = abs((ranks * np.sign(np.subtract(SLOW, FAST))).sum())
    sums = [abs(np.dot(ranks, signs)) for signs in product([-1, 1], repeat=len(SLOW))]
    assert p.low == pytest.approx(np.mean(np.array(sums) >= observed))


def test_wilcoxon_with_equal_figures() -> None:
    assert wilcoxon_p(exact([1.0, 2.0]), exact([1.0, 2.0])) == Interval(1, 1)


def test_wilcoxon_where_the_slow_sample_is_censored_is_known_from_the_ranks() -> None:
    slow = SeedValues.censored([1000, None, None, 900, 950, 1100, None], [5000] * 7)
    fast = exact([100.0, 120, 90, 110, 105, 95, 80])
    assert wilcoxon_p(slow, fast) == Interval(2 / 2**7, 2 / 2**7)


def test_wilcoxon_bounds_hold_for_all_values_that_censoring_allows() -> None:
    a_values, a_limits = [10.0, None, 12.0, 30.0, 14.0, 9.0], [0, 15, 0, 0, 0, 0]
    b_values, b_limits = [13.5, 17.0, 20.25, 22.0, None, 14.0], [0, 0, 0, 0, 12, 0]
    bounds = wilcoxon_p(
        SeedValues.censored(a_values, a_limits), SeedValues.censored(b_values, b_limits)
    )
    assert bounds.low < bounds.high
    for a_hidden, b_hidden in product([15.1, 16.3, 19.7, 31.0, 1e6], [12.2, 13.4, 18.9, 29.0, 1e7]):
        a = [a_hidden if value is None else value for value in a_values]
        b = [b_hidden if value is None else value for value in b_values]
        assert bounds.low <= scipy.stats.wilcoxon(a, b).pvalue <= bounds.high


def test_text_says_how_many_got_there() -> None:
    assert exact(SLOW).text() == "14,500 (13,900 to 15,200), all 7 reached"
    one_missing = SeedValues.censored([*SLOW, None], [20000] * 8)
    assert one_missing.text() == "14,700 (13,900 to 16,000), 7 of 8 reached"
    most_missing = SeedValues.censored([13000, None, None], [20000] * 3)
    assert most_missing.text() == "at least 20,000 (13,000 or more), 1 of 3 reached"
    assert SeedValues.censored([None, None], [500, 700]).text() == (
        "at least 600 (500 or more), 0 of 2 reached"
    )
    assert exact([3.0]).text() == "3"
    assert exact([0.5, 0.7]).text("{:.1f}".format, done=None) == "0.6 (0.5 to 0.7)"
    assert exact([math.nan, 2.0]).text(done=None) == "unknown"


def test_a_sample_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one: got 0 and 0"):
        SeedValues.exact([])
    with pytest.raises(ValueError, match="above its upper end"):
        SeedValues((2.0,), (1.0,))
