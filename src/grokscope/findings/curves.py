"""The curves of a training as they stood at each of its rows.

What is said of a training while it goes on may use the rows so far and no later ones. Levels and
gains are those of logarithmic time, as in ``grokscope.onset``: a level is the median of the last
three measurements, a gain is over a factor in steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grokscope.findings.onset import LEAST_RISE, MEMORIZED, TEST, TRAIN, check_accuracy
from grokscope.runs.history import History

Column = NDArray[np.float64]

FEWEST = 3  # measurements that a level is the median of; with two a turn looks like a standstill
ALIGNMENTS = ("row_alignment", "centroid_alignment")
_START = 0.1  # the share of a rise at which it starts, as in ``grokscope.onset``


@dataclass(frozen=True)
class Stretch:
    """The measurements of a column while steps grew by a factor.

    Attributes:
        count: how many there are.
        since: the step of the first; NaN where there is none.
        gain: from the level of the first to that of the last; NaN for fewer than two.
        spread: the largest less the smallest; NaN where there is none.
    """

    count: int
    since: float
    gain: float
    spread: float


class Readings:
    """A column where it was measured.

    Args:
        history: the rows.
        name: the column; without measurements where the history lacks it.
    """

    def __init__(self, history: History, name: str | None) -> None:
        values = history[name] if name is not None and name in history else np.array([])
        self.rows = np.flatnonzero(np.isfinite(values))
        self.steps = history.steps[self.rows].astype(np.float64)
        self.values: Column = values[self.rows]

    def count(self, row: int) -> int:
        """The number of measurements up to a row."""
        return int(np.searchsorted(self.rows, row, side="right"))

    def last(self, row: int) -> float:
        """The last value measured up to a row; NaN where there is none."""
        known = self.count(row)
        return float(self.values[known - 1]) if known else math.nan

    def level(self, row: int) -> float:
        """The median of the last three measurements; NaN where there is none."""
        known = self.count(row)
        return _median(self.values[max(0, known - FEWEST) : known])

    def stretch(self, row: int, step: float, factor: float) -> Stretch:
        """The measurements from ``step / factor`` up to a row."""
        first, known = int(np.searchsorted(self.steps, step / factor)), self.count(row)
        values = self.values[first:known]
        if not len(values):
            return Stretch(0, math.nan, math.nan, math.nan)
        # The two ends must not be of the same measurements: their gain would be 0 by construction.
        size = min(FEWEST, len(values) // 2)
        gain = _median(values[-size:]) - _median(values[:size]) if size else math.nan
        return Stretch(
            len(values), float(self.steps[first]), gain, float(values.max() - values.min())
        )


class Curves:
    """Training accuracy, test accuracy and alignment, asked row by row.

    Args:
        history: the rows of a training.

    Attributes:
        steps: (r,) of the rows.
        train: training accuracy, or else that of the probe.
        trained_by: the name of the column of ``train``; None where there is none.
        test: test accuracy.
        alignment: of the Jacobian's rows or else of the centroids.
        aligned_by: the name of the column of ``alignment``; None where there is none.

    Raises:
        ValueError: if accuracies are not fractions, or their steps fall.
    """

    def __init__(self, history: History) -> None:
        self.steps = history.steps
        self.trained_by = next((name for name in TRAIN if name in history), None)
        self.train = Readings(history, self.trained_by)
        self.test = Readings(history, TEST)
        self.aligned_by = next((name for name in ALIGNMENTS if name in history), None)
        self.alignment = Readings(history, self.aligned_by)
        for name, column in ((self.trained_by, self.train), (TEST, self.test)):
            check_accuracy(name or TRAIN[0], column.steps, column.values)
        self._fitted, self._known_at = self._first_fit()

    def fitted(self, row: int) -> float | None:
        """The step from which on the training data are fitted; None where that is not known yet.

        It is the ``memorized`` of ``grokscope.onset``. One measurement may be an outlier: it is
        known when the next one says so too, or where there has been none below.
        """
        return self._fitted if row >= self._known_at else None

    def before(self, row: int) -> float:
        """Level of test accuracy from fitting to twice as many steps, or as far as there is one."""
        fitted = self.fitted(row)
        assert fitted is not None
        known = self.test.count(row)
        first = min(int(np.searchsorted(self.test.steps, fitted)), max(known - 1, 0))
        end = int(np.searchsorted(self.test.steps, 2 * fitted, side="right"))
        return _median(self.test.values[first : min(known, max(end, first + 1))])

    def has_risen(self, row: int) -> bool:
        """Whether test accuracy has risen since the training data were fitted, or never lagged.

        It has risen where it has made a tenth of its way from ``before`` to 1. A tenth of the rise
        is the start of ``grokscope.onset``; how high it will rise is not known yet, so that the
        most it can be stands for it. What is said is so never said before that start, and not
        before twice the steps of fitting, when ``before`` is known. It never lagged where it is so
        close to 1 that no rise of 0.1 can come.
        """
        fitted = self.fitted(row)
        if fitted is None or not self.test.count(row):
            return False
        level, before = self.test.level(row), self.before(row)
        is_known = float(self.steps[row]) >= 2 * fitted
        return level >= 1 - LEAST_RISE or (is_known and level - before >= _START * (1 - before))

    def had_risen(self, row: int) -> bool:
        """Whether test accuracy had come half-way from its lowest value to 1 by fitting."""
        fitted = self.fitted(row)
        if fitted is None or not self.test.count(row):
            return False
        before = self.before(row)
        early = self.test.values[: int(np.searchsorted(self.test.steps, fitted))]
        bottom = float(early.min()) if len(early) else before
        return before - bottom >= (1 - bottom) / 2

    def alignment_rise(self, row: int) -> float:
        """Alignment less its first value; NaN where there is none."""
        return self.alignment.level(row) - (
            self.alignment.values[0] if len(self.alignment.values) else math.nan
        )

    def _first_fit(self) -> tuple[float | None, int]:
        """The step of fitting, and the row at which it is known."""
        high = self.train.values >= MEMORIZED
        for place, is_high in enumerate(high.tolist()):
            if is_high and (place == 0 or high[place - 1]):
                return float(self.train.steps[max(place - 1, 0)]), int(self.train.rows[place])
        return None, len(self.steps)


def _median(values: Column) -> float:
    return float(np.median(values)) if len(values) else math.nan
