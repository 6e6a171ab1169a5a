"""Figures over seeds, where a seed that never got there is a bound and is never dropped.

A run that ended before it reached its target says that the target takes at least so many steps:
it is censored. So each seed's figure is an interval, [v, v] where it is known and [limit, inf)
where it is censored, and a ratio of two figures is the interval of the ratios that are possible.
Median and mean grow with each value; their intervals go from the statistic of the lower ends to
the statistic of the upper ends. The median of ten seeds of which two never got there is thus known
exactly, and the mean is only bounded from below.

Intervals of confidence are percentile bootstrap intervals over seeds (Efron and Tibshirani, *An
Introduction to the Bootstrap*, 1993, chapter 13). With n seeds the one of the median reaches at
most from the least to the greatest value, which contains the true median with probability
1 - 2^(1-n): three seeds give 75 %, six are the fewest that give 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Statistic = Literal["median", "mean"]

_STATISTICS: dict[Statistic, Callable[..., NDArray[np.float64]]] = {
    "median": np.median,
    "mean": np.mean,
}


@dataclass(frozen=True)
class Bounds:
    """A number known exactly, or to lie from ``low`` to ``high``.

    Example:
        >>> Bounds(14500, 14500).text(), Bounds(20000, math.inf).text(), Bounds(0, 0.5).text(str)
        ('14,500', 'at least 20,000', 'at most 0.5')
    """

    low: float
    high: float

    @property
    def is_exact(self) -> bool:
        """Whether there is but one value."""
        return self.low == self.high

    def text(self, write: Callable[[float], str] = "{:,.0f}".format) -> str:
        """In words; ``write`` writes one number. Ends that it writes alike are one."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "unknown"
        below, above = self.low in (0.0, -math.inf), self.high == math.inf
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

    def span(self, write: Callable[[float], str] = "{:,.0f}".format) -> str:
        """An interval in words.

        Example:
            >>> Bounds(13900, 15200).span(), Bounds(13900, math.inf).span()
            ('13,900 to 15,200', '13,900 or more')
        """
        if math.isnan(self.low) or math.isnan(self.high):
            return "unknown"
        below, above = self.low in (0.0, -math.inf), self.high == math.inf
        if above:
            return "not bounded" if below else f"{write(self.low)} or more"
        return f"{write(self.low)} to {write(self.high)}"


@dataclass(frozen=True)
class Sample:
    """A figure over seeds: what each is at least, and at most.

    Args:
        lows: the least that each seed's figure can be.
        highs: the most; the same where it is known, infinity where the seed never got there.

    Example:
        >>> steps = Sample.censored([13900, 14500, None], limits=[20000, 20000, 20000])
        >>> steps.median, steps.mean.text()
        (Bounds(low=14500.0, high=14500.0), 'at least 16,133')
        >>> print(steps.text())
        14,500 (13,900 or more), 2 of 3 reached
    """

    lows: tuple[float, ...]
    highs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.lows or len(self.lows) != len(self.highs):
            raise ValueError(
                f"a sample needs as many lower ends as upper ends, at least one: got "
                f"{len(self.lows)} and {len(self.highs)}"
            )
        if any(low > high for low, high in zip(self.lows, self.highs, strict=True)):
            raise ValueError("a lower end must not be above its upper end")

    @classmethod
    def exact(cls, values: Sequence[float]) -> Sample:
        """Figures that are all known."""
        known = tuple(map(float, values))
        return cls(known, known)

    @classmethod
    def censored(cls, values: Sequence[float | None], limits: Sequence[float]) -> Sample:
        """Figures of which some are None, which are at least as large as their limit."""
        pairs = list(zip(values, limits, strict=True))
        return cls(
            tuple(float(limit if value is None else value) for value, limit in pairs),
            tuple(math.inf if value is None else float(value) for value, _ in pairs),
        )

    def __len__(self) -> int:
        return len(self.lows)

    @property
    def ends(self) -> list[tuple[float, float]]:
        """The least and the most that each seed's figure can be."""
        return list(zip(self.lows, self.highs, strict=True))

    @property
    def known(self) -> int:
        """How many seeds' figures are known exactly."""
        return sum(low == high for low, high in self.ends)

    @property
    def median(self) -> Bounds:
        """Median over seeds; a bound only where the middle is censored."""
        return self._of("median")

    @property
    def mean(self) -> Bounds:
        """Mean over seeds; a bound where any seed is censored."""
        return self._of("mean")

    @property
    def std(self) -> float | None:
        """Standard deviation (n - 1); None for one seed, and where any is censored."""
        if len(self) < 2 or self.known < len(self):
            return None
        return float(np.std(self.lows, ddof=1))

    def interval(
        self,
        statistic: Statistic = "median",
        level: float = 0.95,
        resamples: int = 10_000,
        seed: int = 0,
    ) -> Bounds | None:
        """Bootstrap interval of the median or mean over seeds; None for a single seed.

        Seeds are drawn with replacement; the interval goes from the lower quantile over the draws
        of the statistic's lower bound to the upper quantile of its upper bound.

        Args:
            statistic: "median" or "mean".
            level: probability that the interval is meant to have.
            resamples: how often seeds are drawn.
            seed: decides the draws: the same figures give the same interval.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1: got {level}")
        if len(self) < 2:
            return None
        drawn = np.random.default_rng(seed).integers(len(self), size=(resamples, len(self)))
        of = _STATISTICS[statistic]
        tail = (1 - level) / 2
        low = np.quantile(of(np.array(self.lows)[drawn], axis=1), tail, method="inverted_cdf")
        high = np.quantile(of(np.array(self.highs)[drawn], axis=1), 1 - tail, method="inverted_cdf")
        return Bounds(float(low), float(high))

    def at(self, places: Sequence[int]) -> Sample:
        """The figures at some places, in that order."""
        return Sample(
            tuple(self.lows[place] for place in places),
            tuple(self.highs[place] for place in places),
        )

    def over(self, other: Sample) -> Sample:
        """The ratios to another sample, seed by seed, of figures that are not negative.

        A censored numerator gives "at least", a censored denominator "at most", both nothing. A
        denominator of zero gives infinity.
        """
        pairs = list(zip(self.ends, other.ends, strict=True))
        return Sample(
            tuple(_quotient(above[0], below[1]) for above, below in pairs),
            tuple(_quotient(above[1], below[0]) for above, below in pairs),
        )

    def text(
        self, write: Callable[[float], str] = "{:,.0f}".format, done: str | None = "reached"
    ) -> str:
        """Median, its 95 % bootstrap interval, and how many seeds got there.

        Args:
            write: writes one number.
            done: what a seed has whose figure is known; None to leave the count out.
        """
        words = self.median.text(write)
        interval = self.interval()
        if interval is not None and interval.low < interval.high:
            words += f" ({interval.span(write)})"
        if done is not None:
            count = (
                f"all {len(self)}" if self.known == len(self) else f"{self.known} of {len(self)}"
            )
            words += f", {count} {done}" if len(self) > 1 else ""
        return words

    def _of(self, statistic: Statistic) -> Bounds:
        of = _STATISTICS[statistic]
        return Bounds(float(of(self.lows)), float(of(self.highs)))


def welch_p(a: Sample, b: Sample) -> float | None:
    """Two-sided p-value of Welch's t-test that two samples have the same mean.

    None where the test has no answer: with fewer than two seeds, where neither sample varies, and
    where a figure is censored, whose mean and variance are not known.
    """
    from scipy.stats import ttest_ind_from_stats

    if a.std is None or b.std is None or (a.std == 0 and b.std == 0):
        return None
    summaries = (of for sample in (a, b) for of in (np.mean(sample.lows), sample.std, len(sample)))
    return float(ttest_ind_from_stats(*summaries, equal_var=False).pvalue)


def wilcoxon_p(a: Sample, b: Sample) -> Bounds:
    """Two-sided p-value of the Wilcoxon signed-rank test that a and b, seed by seed, are alike.

    The rank sum grows with each difference, so that censored figures bound it and with it the
    p-value. With n pairs no p-value is less than 2^(1-n): five seeds cannot reach 0.05.
    """
    pairs = list(zip(a.ends, b.ends, strict=True))
    least = np.array([ours[0] - theirs[1] for ours, theirs in pairs])
    most = np.array([ours[1] - theirs[0] for ours, theirs in pairs])
    (p_least, side_least), (p_most, side_most) = map(_signed_rank, (_finite(least), _finite(most)))
    ends = sorted([p_least, p_most])
    return Bounds(ends[0], ends[1] if side_least == side_most else 1.0)


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
    beyond = np.sign(differences) * (largest + 1 + np.arange(len(differences)))
    return np.where(infinite, beyond, differences)


def _quotient(above: float, below: float) -> float:
    if math.isinf(below):
        return 0.0
    return above / below if below else math.inf
