"""Which phase training is in, told from its curves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grokscope.findings import onset
from grokscope.findings.onset import MEMORIZED
from grokscope.runs import History

ALIGNING = 0.01


@dataclass(frozen=True)
class Phase:
    """A phase of training and the figures that it was told from.

    ``name`` is one of

    - ``"fitting"``: training accuracy has not yet reached 99 %;
    - ``"memorized"``: it has, and test accuracy neither rises nor has risen since;
    - ``"generalizing"``: training data are fitted and test accuracy is rising;
    - ``"settled"``: test accuracy has risen, or never lagged behind, and no longer rises;
    - ``"fitted"``: training accuracy has reached 99 % and no test accuracy is known.

    ``grokscope.onset`` tells them apart, by its states and by ``rising``. ``aligning`` says whether
    alignment still rises by 0.01 or more over the last octave, from half the present step on; None
    where it is not recorded. NaN marks a figure that is not known.
    """

    name: str
    aligning: bool | None
    step: int
    train_accuracy: float
    test_accuracy: float
    test_accuracy_gain: float
    alignment: float
    alignment_gain: float

    def __str__(self) -> str:
        parts = [f"train accuracy {self.train_accuracy:.1%}"]
        if not math.isnan(self.test_accuracy):
            parts.append(
                f"test accuracy {self.test_accuracy:.1%} ({self.test_accuracy_gain:+.1%} over the "
                "last octave of steps)"
            )
        if self.aligning is not None:
            state = "still aligning" if self.aligning else "alignment steady"
            parts.append(f"{state} ({self.alignment:.2f}, {self.alignment_gain:+.2f})")
        return f"{self.name} at step {self.step}: {', '.join(parts)}"


def phase(history: History) -> Phase:
    """The phase at the last row of a history.

    It reads the columns ``train_accuracy`` (or ``probe_accuracy``), ``test_accuracy`` and
    ``row_alignment`` (or ``centroid_alignment``); only the first is needed. Rows say more than
    centroids: under cross-entropy the optimal rows cancel in the centroid (Theorem 2).

    Raises:
        ValueError: if the history has no row, or neither of the training accuracies.
    """
    names = [name for name in ("train_accuracy", "probe_accuracy") if name in history]
    if not names:
        raise ValueError(
            "the phase needs a training accuracy: give the monitor a probe of training points "
            "with labels, or pass it as .step(i, train_accuracy=...)"
        )
    train, _ = _level_and_gain(history, names[0])
    test, test_gain = _level_and_gain(history, "test_accuracy")
    aligned = "row_alignment" if "row_alignment" in history else "centroid_alignment"
    alignment, alignment_gain = _level_and_gain(history, aligned)
    known = not math.isnan(alignment_gain)
    return Phase(
        name=_name(history, names[0], test),
        aligning=alignment_gain >= ALIGNING if known else None,
        step=int(history.steps[-1]),
        train_accuracy=train,
        test_accuracy=test,
        test_accuracy_gain=test_gain,
        alignment=alignment,
        alignment_gain=alignment_gain,
    )


def _name(history: History, train: str, test: float) -> str:
    if math.isnan(test):
        return "fitting" if history.first_step(train, MEMORIZED) is None else "fitted"
    found = onset(history, train=train)
    if found.state == "fitting":
        return "fitting"
    if found.rising:
        return "generalizing"
    return "memorized" if found.state == "never" else "settled"


def _level_and_gain(history: History, name: str) -> tuple[float, float]:
    """The level of a column and its rise over the last factor of two in steps.

    Both ends are medians of three values, of fewer where six are not there: the two must not be
    of the same values. Where the factor of two holds one value, the rise is from the one before.
    """
    if name not in history:
        return math.nan, math.nan
    column, steps = history[name], history.steps
    known = ~np.isnan(column)
    column, steps = column[known], steps[known]
    first = int(np.searchsorted(steps, steps[-1] / 2))
    octave = column[min(first, max(len(column) - 2, 0)) :]
    if len(octave) < 2:
        return float(octave[-1]), math.nan
    size = min(3, len(octave) // 2)
    level = float(np.median(octave[-size:]))
    return level, level - float(np.median(octave[:size]))
