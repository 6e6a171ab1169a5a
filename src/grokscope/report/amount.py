"""A quantity over seeds, some of which may never have got there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from grokscope.findings.statistics import SeedValues


@dataclass(frozen=True)
class Amount:
    """Steps or seconds to a milestone, a value for each seed.

    A value is None where the seed never got there, and its limit is how far that seed was trained.

    Example:
        >>> Amount((800.0, 900.0, None), (900.0, 1000.0, 5000.0)).median
        900.0
        >>> Amount((800.0, None, None), (900.0, 5000.0, 4000.0)).median is None
        True
    """

    values: tuple[float | None, ...]
    limits: tuple[float, ...]

    @property
    def median(self) -> float | None:
        """Median over seeds, a missing value counting as larger than any; None if it is missing."""
        value = float(median(math.inf if value is None else value for value in self.values))
        return None if math.isinf(value) else value

    @property
    def sample(self) -> SeedValues:
        """The values for statistics, a missing one being at least its limit."""
        return SeedValues.censored(self.values, self.limits)

    @property
    def known(self) -> list[float]:
        """The values of the seeds that got there."""
        return [value for value in self.values if value is not None]

    @property
    def reached(self) -> int:
        """How many seeds got there."""
        return len(self.known)

    @property
    def low(self) -> float:
        """The smallest value; NaN if no seed got there."""
        return min(self.known, default=math.nan)

    @property
    def high(self) -> float:
        """The largest value among the seeds that got there; NaN if none did."""
        return max(self.known, default=math.nan)

    @property
    def limit(self) -> float:
        """How far the seeds that did not get there were trained at least; NaN if all got there."""
        missing = [
            limit for value, limit in zip(self.values, self.limits, strict=True) if value is None
        ]
        return min(missing, default=math.nan)
