"""Values over seeds, where a seed that did not reach its target is a bound and is never dropped.

A run that ended before it reached its target says that the target takes at least that many steps:
it is right-censored. So the value of each seed is an interval, [v, v] where it is known and
[limit, inf) where it is censored, and a ratio of two values is the interval of the ratios that are
possible. Median and mean grow with each value; their intervals go from the statistic of the lower
ends to the statistic of the upper ends. The median of ten seeds of which two are censored is thus
known exactly, and the mean is only bounded from below. A seed that stopped before the others may
leave the median between two values: 5,000, 9,000 and at least 6,000 have one from 6,000 to 9,000.

Confidence intervals are percentile bootstrap intervals over seeds (Efron and Tibshirani, *An
Introduction to the Bootstrap*, 1993, chapter 13). With n seeds the one of the median reaches at
most from the least to the greatest value, which contains the true median with probability
1 - 2^(1-n): three seeds give 75 %, six are the fewest that give 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grokscope.shown import shown

Statistic = Literal["median", "mean"]

_MOST_DRAWN = 1_000_000  # values drawn at once for an interval

_STATISTICS: dict[Statistic, Callable[..., NDArray[np.float64]]] = {
    "median": np.median,
    "mean": np.mean,
}


@shown()
class Interval(NamedTuple):
    """A number known exactly, or to lie from ``low`` to ``high``.

    Example:
        >>> Interval(14500, 14500).text(), Interval(20000, math.inf).text()
        ('14,500', 'at least 20,000')
        >>> Interval(0, 0.5).text(str), Interval(6000, 9000).value
        ('at most 0.5', None)
    """

    low: float
    high: float

    def __repr__(self) -> str:
        return f"Interval(low={self.low!r}, high={self.high!r})"

    def _shown(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "in words": self.text(_number)}

    @property
    def is_exact(self) -> bool:
        """Whether there is only one value; a NaN is none."""
        return self.low == self.high

    @property
    def is_bounded(self) -> bool:
        """Whether there is a largest value."""
        return self.high < math.inf

    @property
    def value(self) -> float | None:
        """The value where it is known exactly; else None."""
        return self.low if self.is_exact else None

    def text(self, write: Callable[[float], str] = "{:,.0f}".format) -> str:
        """In words; ``write`` writes one number. Ends that it writes alike are one."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "unknown"
        below, above = self.low in (0.0, -math.inf), self.high == math.inf
        if self.low == math.inf:
            return "infinite"
        if self.is_exact:
            return write(self.low)
        if below and above:
            return "unknown"
        if below:
            return f"at most {write(self.high)}"
        low, high = write(self.low), write(self.high)
        if above:
            return f"at least {low}"
        return low if low == high else f"{low} to {high}"

    def range_text(self, write: Callable[[float], str] = "{:,.0f}".format) -> str:
        """A confidence interval in words.

        Example:
            >>> Interval(13900, 15200).range_text(), Interval(13900, math.inf).range_text()
            ('13,900 to 15,200', '13,900 or more')
        """
        if math.isnan(self.low) or math.isnan(self.high):
            return "unknown"
        below, above = self.low in (0.0, -math.inf), self.high == math.inf
        if above:
            return "not bounded" if below else f"{write(self.low)} or more"
        return f"{write(self.low)} to {write(self.high)}"


@shown()
@dataclass(frozen=True, repr=False)
class SeedValues:
    """A value for each seed, known exactly or between bounds.

    Args:
        lows: the least that the value of each seed can be.
        highs: the most; the same where it is known, infinity where the seed is censored.

    Raises:
        ValueError: if there is no seed, or a lower end lies above its upper end.

    Example:
        >>> steps = SeedValues.censored([13900, 14500, None], limits=[20000, 20000, 20000])
        >>> steps.median, steps.mean.text()
        (Interval(low=14500.0, high=14500.0), 'at least 16,133')
        >>> print(steps.text())
        14,500 (13,900 or more), 2 of 3 reached
        >>> SeedValues.censored([5000, 9000, None], limits=[9000, 9000, 6000]).median.text()
        '6,000 to 9,000'
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lows or len(self.lows) != len(self.highs):
            raise ValueError(
                f"values over seeds need as many lower ends as upper ends, at least one: got "
                f"{len(self.lows)} and {len(self.highs)}"
            )
        if any(low > high for low, high in zip(self.lows, self.highs, strict=True)):
            raise ValueError("a lower end must not be above its upper end")

    def _shown(self) -> dict[str, Any]:
        return {
            "seeds": len(self),
            "known": self.num_known,
            "median": self.median.text(_number),
            "mean": self.mean.text(_number),
            "values": ", ".join(each.text(_number) for each in self.intervals),
        }

    @classmethod
    def exact(cls, values: Sequence[float]) -> SeedValues:
        """Values that are all known."""
        known = tuple(map(float, values))
        return cls(known, known)

    @classmethod
    def censored(cls, values: Sequence[float | None], limits: Sequence[float]) -> SeedValues:
        """Values of which some are None: those are at least as large as their limit."""
        pairs = list(zip(values, limits, strict=True))
        return cls(
            tuple(float(limit if value is None else value) for value, limit in pairs),
            tuple(math.inf if value is None else float(value) for value, _ in pairs),
        )

    def __len__(self) -> int:
        return len(self.lows)

    @property
    def intervals(self) -> list[Interval]:
        """The value of each seed."""
        return [Interval(*ends) for ends in zip(self.lows, self.highs, strict=True)]

    @property
    def values(self) -> tuple[float | None, ...]:
        """The value of each seed where it is known exactly; else None."""
        return tuple(interval.value for interval in self.intervals)

    @property
    def known(self) -> list[float]:
        """The values of the seeds where it is known exactly."""
        return [value for value in self.values if value is not None]

    @property
    def num_known(self) -> int:
        """The number of seeds whose value is known exactly."""
        return len(self.known)

    @property
    def median(self) -> Interval:
        """Median over seeds; bounds where a censored seed can change it."""
        return self._of("median")

    @property
    def mean(self) -> Interval:
        """Mean over seeds; a bound where any seed is censored."""
        return self._of("mean")

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1); None for one seed, and where any is censored or infinite."""
        if len(self) < 2 or self.num_known < len(self) or math.inf in map(abs, self.lows):
            return None
        return float(np.std(self.lows, ddof=1))

    def interval(
        self,
        statistic: Statistic = "median",
        level: float = 0.95,
        resamples: int = 10_000,
        seed: int = 0,
    ) -> Interval | None:
        """Bootstrap interval of the median or mean over seeds; None for a single seed.

        Seeds are drawn with replacement; the interval goes from the lower quantile over the draws
        of the statistic of the lower ends to the upper quantile of that of the upper ends.

        Args:
            statistic: "median" or "mean".
            level: probability that the interval is meant to have.
            resamples: how often seeds are drawn.
            seed: decides the draws: the same values give the same interval.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1: got {level}")
        if len(self) < 2:
            return None
        of, draw = _STATISTICS[statistic], np.random.default_rng(seed)
        lows, highs = np.array(self.lows), np.array(self.highs)
        found = np.empty((2, resamples))
        # By blocks of draws: all draws of 2,000 seeds at once would take 500 MB, to the same end.
        rows = max(1, _MOST_DRAWN // len(self))
        for begin in range(0, resamples, rows):
            block = slice(begin, min(begin + rows, resamples))
            drawn = draw.integers(len(self), size=(block.stop - begin, len(self)))
            found[:, block] = of(lows[drawn], axis=1), of(highs[drawn], axis=1)
        tail = (1 - level) / 2
        # inverted_cdf takes one of the draws: interpolation between a finite draw and infinity
        # could be NaN
        low = np.quantile(found[0], tail, method="inverted_cdf")
        high = np.quantile(found[1], 1 - tail, method="inverted_cdf")
        return Interval(float(low), float(high))

    def at(self, places: Sequence[int]) -> SeedValues:
        """The values at some places, in that order."""
        return SeedValues(
            tuple(self.lows[place] for place in places),
            tuple(self.highs[place] for place in places),
        )

    def over(self, other: SeedValues) -> SeedValues:
        """The ratios to other values, seed by seed, of values that are not negative.

        A censored numerator gives "at least", a censored denominator "at most", both nothing. A
        denominator of zero gives infinity, and zero over zero nothing, from 0 to infinity: the two
        times were both too short to be told apart.
        """
        # The least ratio has the least numerator over the greatest denominator, and so on.
        pairs = list(zip(self.intervals, other.intervals, strict=True))
        return SeedValues(
            tuple(_quotient(above.low, below.high, undefined=0.0) for above, below in pairs),
            tuple(_quotient(above.high, below.low, undefined=math.inf) for above, below in pairs),
        )

    def text(
        self, write: Callable[[float], str] = "{:,.0f}".format, done: str | None = "reached"
    ) -> str:
        """Median, its 95 % bootstrap interval, and how many seeds reached the target.

        Args:
            write: writes one number.
            done: the word for a seed whose value is known; None leaves the count out.
        """
        words = self.median.text(write)
        interval = self.interval()
        if interval is not None and interval.low < interval.high:
            words += f" ({interval.range_text(write)})"
        if done is not None:
            count = (
                f"all {len(self)}"
                if self.num_known == len(self)
                else f"{self.num_known} of {len(self)}"
            )
            words += f", {count} {done}" if len(self) > 1 else ""
        return words

    def _of(self, statistic: Statistic) -> Interval:
        of = _STATISTICS[statistic]
        # median and mean grow with each value, so the ends of the values give the ends of the
        # statistic
        return Interval(float(of(self.lows)), float(of(self.highs)))


def welch_p(a: SeedValues, b: SeedValues) -> float | None:
    """Two-sided p-value of Welch's t-test that two conditions have the same mean.

    None where the test has no answer: with fewer than two seeds, where neither varies, and
    where a value is censored, whose mean and variance are not known.
    """
    from scipy.stats import ttest_ind_from_stats

    if a.std is None or b.std is None or (a.std == 0 and b.std == 0):
        return None
    moments = (of for values in (a, b) for of in (np.mean(values.lows), values.std, len(values)))
    return float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def wilcoxon_p(a: SeedValues, b: SeedValues) -> Interval:
    """Two-sided p-value of the Wilcoxon signed-rank test that a and b, seed by seed, are alike.

    The rank sum grows with each difference, so that censored values bound it and with it the
    p-value. With n pairs no p-value is less than 2^(1-n): five seeds cannot reach 0.05.
    """
    pairs = list(zip(a.intervals, b.intervals, strict=True))
    # each difference between its own ends; all at their least give the least rank sum
    least = np.array([ours.low - theirs.high for ours, theirs in pairs])
    most = np.array([ours.high - theirs.low for ours, theirs in pairs])
    (p_least, side_least), (p_most, side_most) = map(_signed_rank, (_finite(least), _finite(most)))
    ends = sorted([p_least, p_most])
    # Where the rank sum can pass through its middle, the p-value can reach 1 in between.
    return Interval(ends[0], ends[1] if side_least == side_most else 1.0)


def _signed_rank(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The p-value, and on which side of the middle the rank sum lies."""
    from scipy.stats import rankdata, wilcoxon

    differences = differences[differences != 0]
    if not len(differences):
        return 1.0, 0.0
    ranks = rankdata(np.abs(differences))
    side = float(np.sign((ranks * np.sign(differences)).sum()))
    return float(wilcoxon(differences).pvalue), side


def _finite(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite differences as finite ones, larger than all others: ranks are all that counts."""
    infinite = np.isinf(differences)
    largest = np.abs(differences[~infinite]).max(initial=0.0)
    # all different: with ties there is no exact distribution, and scipy would take another
    beyond = np.sign(differences) * (largest + 1 + np.arange(len(differences)))
    return np.where(infinite, beyond, differences)


def _quotient(above: float, below: float, undefined: float) -> float:
    if math.isnan(above):
        return math.nan
    if math.isinf(below):
        return 0.0
    if below:
        return above / below
    return math.inf if above else undefined


def _number(value: float) -> str:
    """A number of steps, or one below a thousand such as an accuracy or a ratio.

    Example:
        >>> _number(14500.0), _number(0.8512345)
        ('14,500', '0.8512')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
