"""The onset of delayed generalization, found from the accuracy curves.

Zheng, Daruwalla, Benjamin and Klindt (*Delays in generalization match delayed changes in
representational geometry*, UniReps 2024) compare what changes before the onset of generalization
with what changes during it, and mark the onset by eye. Here it is computed:

    memorized   the first step m at which training accuracy is at or above 0.99;
    before      the level of test accuracy from there to twice as many steps, [m, 2m];
    after       its highest level, the median over a factor of two in steps;
    start, middle, end   the steps at which it has made 10 %, 50 % and 90 % of its rise from
                ``before`` to ``after``.

Steps are compared by their ratios throughout, since the curves are those of logarithmic time: a
level is a median over a factor of two in steps, and a step between two evaluations is interpolated
in the logarithm. The rise is fitted by isotonic regression, the best nondecreasing fit to the
evaluations, which crosses each level once however noisy they are.
Cost: O(n log n) in the number of evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.arguments import checked_arguments
from grokscope.findings.statistics import SeedValues
from grokscope.runs.history import History
from grokscope.shown import shown

Column = NDArray[np.float64]

TRAIN = ("train_accuracy", "probe_accuracy")
TEST = "test_accuracy"
MEMORIZED = 0.99
LEAST_RISE = 0.1
LEAST_GAIN = 0.02
_SETTLED = 1 / 8  # a settled curve gains at most this share of its rise in a factor of two
_FACTOR = 2.0  # in steps, over which a level is a median
_FEWEST = 3  # evaluations that a level is the median of


@shown()
@dataclass(frozen=True, repr=False)
class Onset:
    """When a network that fitted its training data began to generalize, and when it had.

    ``state`` is one of

    - ``"fitting"``: training accuracy has not reached 99 %; no delay can be told yet;
    - ``"untested"``: it has, and test accuracy was not evaluated since; none can be told either;
    - ``"delayed"``: test accuracy rose by 0.1 or more, at twice that step or later;
    - ``"no delay"``: it had risen by then;
    - ``"never"``: it has not risen by the end of training.

    Attributes:
        state: the answer.
        memorized: the step at which training accuracy was first at or above 99 %; else None.
        start: the step at which test accuracy had made a tenth of its rise; None without a delay.
        middle: the same for a half.
        end: the same for nine tenths; None while the rise goes on.
        before: level of test accuracy once memorized; NaN while fitting and untested.
        after: its highest level since.
        rising: whether it still rises: by 0.02 in the last factor of two in steps, and by an
            eighth of its rise.
        last: the last step at which test accuracy was evaluated; while fitting, training accuracy.
    """

    state: str
    memorized: float | None
    start: float | None
    middle: float | None
    end: float | None
    before: float
    after: float
    rising: bool
    last: float

    @property
    def delay(self) -> float | None:
        """Ratio of the step of the middle of the rise to that of memorization; 1 for none."""
        if self.state == "no delay":
            return 1.0
        if self.middle is None or self.memorized is None:
            return None
        return self.middle / max(self.memorized, 1.0)

    def at(self, moment: str) -> float | None:
        """The step of "memorized", "start", "middle" or "end"; None where there is none."""
        moments = {
            "memorized": self.memorized,
            "start": self.start,
            "middle": self.middle,
            "end": self.end,
        }
        if moment not in moments:
            raise ValueError(f"moment must be one of {', '.join(moments)}: got {moment!r}")
        return moments[moment]

    def __str__(self) -> str:
        if self.memorized is None:
            return f"training data not yet memorized at step {self.last:,.0f}"
        if self.state == "untested":
            return (
                f"memorized at step {self.memorized:,.0f}, test accuracy last evaluated before it, "
                f"at step {self.last:,.0f}"
            )
        if self.state != "delayed":
            words = {"no delay": "no delay", "never": "has not generalized"}[self.state]
            return f"memorized at step {self.memorized:,.0f}, {words} by step {self.last:,.0f}"
        end = f"end {self.end:,.0f}" if self.end is not None else "still rising"
        return (
            f"memorized at step {self.memorized:,.0f}, generalizing from {self.start:,.0f} "
            f"(middle {self.middle:,.0f}, {end}): {self.before:.1%} to {self.after:.1%}"
        )


@checked_arguments
def onset(
    history: History | Mapping[str, Any],
    *,
    train: str | None = None,
    test: str = TEST,
    memorized: float = MEMORIZED,
    least_rise: float = LEAST_RISE,
) -> Onset:
    """When delayed generalization started, was half done and ended.

    It can be asked at any time during training; the answer is then that of the curves so far.

    Args:
        history: the metrics of a training, or a mapping from ``step`` and the names of columns to
            numbers. Values that are NaN or missing are left out.
        train: the column of training accuracy; ``train_accuracy`` or else ``probe_accuracy``.
        test: the column of test accuracy.
        memorized: the training accuracy from which on the training data count as fitted.
        least_rise: a smaller rise of test accuracy than this is none.

    Raises:
        ValueError: if a column is missing or has no value, accuracies are not fractions, or steps
            fall.

    Example:
        >>> import grokscope as gs
        >>> steps = [10, 100, 1000, 2000, 4000, 8000, 16000, 32000]
        >>> train_accuracy = [0.5, 1, 1, 1, 1, 1, 1, 1]
        >>> test_accuracy = [0.1, 0.2, 0.2, 0.2, 0.5, 0.8, 0.8, 0.8]
        >>> columns = {"train_accuracy": train_accuracy, "test_accuracy": test_accuracy}
        >>> found = gs.onset({"step": steps, **columns})
        >>> found.state, round(found.start), round(found.middle), round(found.end)
        ('delayed', 2297, 4000, 6964)
    """
    for name, value in (("memorized", memorized), ("least_rise", least_rise)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1: got {value}")
    history = _as_history(history)
    if not len(history):
        raise ValueError("history is empty: the onset needs at least one row")
    train_steps, train_values = _recorded(history, *(TRAIN if train is None else [train]))
    steps, values = _recorded(history, test)
    at, last = _first_lasting(train_steps, train_values, memorized), float(steps[-1])
    if at is None:
        last = float(train_steps[-1])
        return Onset("fitting", at, None, None, None, math.nan, math.nan, False, last)
    if last < at:
        return Onset("untested", at, None, None, None, math.nan, math.nan, False, last)
    since = steps >= at
    late_steps, late = steps[since], values[since]
    # medians over a factor of two in steps: one evaluation out of line moves none of the levels
    before = float(np.median(late[late_steps <= max(_FACTOR * at, late_steps[0])]))
    levels = _levels(late_steps, late)
    peak = int(levels.argmax())
    after = max(before, float(levels[peak]))
    gain = _last_gain(steps, values)
    # still rising: then the end is a bound of the curve so far, and is left open
    rising = gain >= max(LEAST_GAIN, _SETTLED * (after - before))
    if after - before < least_rise:
        state = "no delay" if _had_risen(values[~since], before, train_values) else "never"
        return Onset(state, at, None, None, None, before, after, rising, last)
    # Past the evaluations of the highest level the curve may fall; the rise ends there.
    top = late_steps <= max(_FACTOR * late_steps[peak], late_steps[min(peak + 2, len(late) - 1)])
    rise = _isotonic(late[top])
    start, middle, end = (
        _crossing(late_steps[top], rise, before + share * (after - before))
        for share in (0.1, 0.5, 0.9)
    )
    return Onset("delayed", at, start, middle, None if rising else end, before, after, rising, last)


def over_seeds(found: Sequence[Onset], moment: str) -> SeedValues:
    """A moment of the onsets of several seeds, as ``Onset.at`` names it, none of them dropped.

    Where it did not come it is censored at the last evaluation; where there was no delay the rise
    was over by twice the steps of memorization.
    """
    lows, highs = [], []
    for each in found:
        at = each.at(moment)
        if at is not None:
            low, high = at, at
        elif each.state == "no delay" and each.memorized is not None:
            low, high = 0.0, _FACTOR * each.memorized
        else:
            low, high = each.last, math.inf
        lows.append(low)
        highs.append(high)
    return SeedValues(tuple(lows), tuple(highs))


def value_at(history: History, name: str, step: float) -> float:
    """A column at a step, between two evaluations interpolated in the logarithm of steps.

    Outside the evaluations it is the nearest value; NaN where there is none.

    Example:
        >>> history = History([{"step": 10, "norm": 1.0}, {"step": 1000, "norm": 3.0}])
        >>> round(value_at(history, "norm", 100), 9)
        2.0
    """
    values, steps = history[name], history.steps
    known = np.isfinite(values)
    if not known.any():
        return math.nan
    return float(np.interp(_log(step), _log(steps[known]), values[known]))


def _as_history(history: History | Mapping[str, Any]) -> History:
    if isinstance(history, History):
        return history
    if not isinstance(history, Mapping):
        raise TypeError(
            f"history must be a gs.History or a dictionary of columns: got {type(history).__name__}"
        )
    if "step" not in history:
        raise ValueError(f"history has no 'step': it has {', '.join(map(str, history)) or 'none'}")
    lengths = {name: len(values) for name, values in history.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of history have different lengths: {lengths}")
    names = list(history)
    return History(
        dict(zip(names, row, strict=True)) for row in zip(*history.values(), strict=True)
    )


def has_accuracies(history: History) -> bool:
    """Whether the accuracies that the onset is told by were recorded."""
    train = next((name for name in TRAIN if name in history), None)
    return all(
        name is not None and name in history and np.isfinite(history[name]).any()
        for name in (train, TEST)
    )


def _recorded(history: History, *names: str) -> tuple[Column, Column]:
    """Steps and values of the first of some columns that there is, where it was recorded."""
    name = next((name for name in names if name in history), None)
    if name is None:
        needed, known = " or ".join(map(repr, names)), ", ".join(history.names) or "no column"
        raise ValueError(f"the onset needs {needed}, which the history lacks: it has {known}")
    values = history[name]
    known_here = np.isfinite(values)
    steps, values = history.steps[known_here].astype(np.float64), values[known_here]
    if not len(values):
        raise ValueError(f"{name} has no value: all are NaN or missing")
    check_accuracy(name, steps, values)
    return steps, values


def check_accuracy(name: str, steps: Column, values: Column) -> None:
    """Raise unless a column holds fractions at steps that do not fall.

    Raises:
        ValueError: if it does not; the message names the column.
    """
    if len(values) and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"{name} must hold fractions from 0 to 1: got {values.min():g} to {values.max():g}; "
            "divide per cents by 100"
        )
    if (np.diff(steps) < 0).any():
        raise ValueError(f"the steps of {name} must not fall")


def _log(steps: float | Column | NDArray[np.int64]) -> Any:
    """Logarithm of steps, in which step 0 stands a factor of two before step 1."""
    return np.log(np.maximum(np.asarray(steps, dtype=np.float64), 1 / _FACTOR))


def _first_lasting(steps: Column, values: Column, level: float) -> float | None:
    """The first step at a level that is no single outlier; medians of three neighbors say so."""
    smooth = values.copy()
    if len(values) > 2:
        inner = np.stack([values[:-2], values[1:-1], values[2:]])
        smooth[1:-1] = np.median(inner, axis=0)
    # both: the median may pass a level one evaluation before the curve itself does
    reached = np.flatnonzero((smooth >= level) & (values >= level))
    return float(steps[reached[0]]) if len(reached) else None


def _levels(steps: Column, values: Column) -> Column:
    """From each evaluation on the median over a factor of two in steps, but of three at least.

    Where fewer are left, the level is that of the last three.
    """
    levels = []
    for place in range(len(steps)):
        first = min(place, max(0, len(steps) - _FEWEST))
        beyond = int(np.searchsorted(steps, _FACTOR * max(steps[first], 1.0), side="right"))
        levels.append(np.median(values[first : max(beyond, first + _FEWEST)]))
    return np.array(levels)


def _last_gain(steps: Column, values: Column) -> float:
    """The gain over the last factor of two in steps, by medians of three at its ends."""
    stretch = values[steps >= steps[-1] / _FACTOR]
    return float(np.median(stretch[-3:]) - np.median(stretch[:3]))


def _had_risen(early: Column, before: float, train: Column) -> bool:
    """Whether test accuracy had made most of its rise by the step of memorization."""
    close = float(train.max()) - before <= LEAST_RISE
    bottom = float(early.min()) if len(early) else before
    return close or before - bottom >= (1 - bottom) / 2


def _crossing(steps: Column, fit: Column, level: float) -> float:
    """Where a nondecreasing fit passes a level, between evaluations in logarithmic time."""
    above = int(np.argmax(fit >= level)) if (fit >= level).any() else len(fit) - 1
    if above == 0:
        return float(steps[0])
    # isotonic fits have flats: the crossing lies on the rise that ends the one below the level
    low, high = fit[above - 1], fit[above]
    share = (level - low) / (high - low) if high > low else 1.0
    ends = _log(steps[above - 1 : above + 1])
    return float(np.exp(ends[0] + min(share, 1.0) * (ends[1] - ends[0])))


def _isotonic(values: Column) -> Column:
    """The nondecreasing sequence nearest to the values in the mean square (Ayer et al. 1955)."""
    from scipy.optimize import isotonic_regression  # takes a quarter of a second

    fit: Column = isotonic_regression(values).x
    return fit
