"""Which phase training is in, told from its curves.

One rule tells when nothing is left to wait for, here and where training stops by itself:
``StopWhenSettled``. The phases go forward from fitting to settled, and back once more where test
accuracy rises after all: a threshold that was crossed is not crossed back by noise. What was said
before is found again by going through the rows from the first, so that a resumed monitor says the
same. Cost: about 0.1 ms a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grokscope.findings.curves import Curves
from grokscope.findings.onset import LEAST_GAIN
from grokscope.findings.settled import STEADY, StopWhenSettled, Wait, not_fitted
from grokscope.runs.history import History
from grokscope.shown import shown

PHASES = ("fitting", "memorized", "generalizing", "settled")


@shown(
    "name",
    "since",
    "step",
    "reason",
    "train_accuracy",
    "test_accuracy",
    "test_accuracy_gain",
    "alignment",
    "alignment_gain",
    "aligning",
)
@dataclass(frozen=True, repr=False)
class Phase:
    """A phase of training and the values that it was told from.

    ``name`` is one of

    - ``"fitting"``: training accuracy has not yet reached 99 %;
    - ``"memorized"``: it has, and test accuracy has not risen since;
    - ``"generalizing"``: test accuracy has risen since, by a tenth of its way to 1 or more, or it
      never lagged behind; ``StopWhenSettled`` still waits for something;
    - ``"settled"``: ``StopWhenSettled`` stops there, or did, and test accuracy has not risen since;
    - ``"fitted"``: training accuracy has reached 99 % and no test accuracy is known.

    Attributes:
        name: the phase.
        since: the step at which it was first told.
        step: the last step.
        waits_for: the column that has to change or stand still before training is settled; None
            where nothing is left to wait for.
        reason: the same in a sentence.
        train_accuracy: the last value, as all values here; NaN where there is none.
        test_accuracy: of all test points that are recorded.
        test_accuracy_gain: over the last factor of two in steps; NaN where fewer than two
            measurements lie in it.
        alignment: of the Jacobian's rows, or else of the centroids.
        alignment_gain: as that of test accuracy.
        aligning: whether alignment rises by 0.01 or more over the last factor of two; None where
            that is not known.
        gain_since: the steps from which on the two gains are counted.
    """

    name: str
    since: int
    step: int
    waits_for: str | None
    reason: str
    train_accuracy: float
    test_accuracy: float
    test_accuracy_gain: float
    alignment: float
    alignment_gain: float
    aligning: bool | None
    gain_since: tuple[float, float]

    def __str__(self) -> str:
        began = f" since step {self.since:,}" if self.since < self.step else ""
        parts = [f"training accuracy {self.train_accuracy:.1%}"]
        if not math.isnan(self.test_accuracy):
            gain = _gain(self.test_accuracy_gain * 100, ".1f", " points", self.gain_since[0])
            parts.append(f"test accuracy {self.test_accuracy:.1%} ({gain})")
        if not math.isnan(self.alignment):
            gain = _gain(self.alignment_gain, ".2f", "", self.gain_since[1])
            parts.append(f"alignment {self.alignment:.2f} ({gain})")
        return f"{self.name} at step {self.step:,}{began}: {', '.join(parts)}; {self.reason}"


def phase(history: History, rule: StopWhenSettled | None = None) -> Phase:
    """The phase at the last row of a history.

    It reads the columns ``train_accuracy`` (or ``probe_accuracy``), ``test_accuracy`` and
    ``row_alignment`` (or ``centroid_alignment``); only the first is needed. Rows say more than
    centroids: under cross-entropy the optimal rows cancel in the centroid (Theorem 2).

    Args:
        history: the rows of a training.
        rule: tells when training is settled; by default ``StopWhenSettled()``, which asks for
            alignment: without it, nothing is called settled.

    Raises:
        ValueError: if the history has no row, or neither of the training accuracies, or they are
            not fractions.
    """
    return phases(history, rule)[-1]


def phases(history: History, rule: StopWhenSettled | None = None) -> list[Phase]:
    """The phase that was told at each row of a history that has an accuracy or an alignment.

    Args:
        history: the rows of a training.
        rule: as for ``phase``.

    Raises:
        ValueError: as for ``phase``.

    Example:
        >>> rows = [{"step": s, "train_accuracy": min(1, s / 10)} for s in (1, 10, 20)]
        >>> [each.name for each in phases(History(rows))]
        ['fitting', 'fitting', 'fitted']
    """
    rule = rule or StopWhenSettled()
    curves = Curves(history)
    if not len(curves.train.values):
        raise ValueError(
            "the phase needs a training accuracy: give the monitor a probe of training points "
            "with labels, or pass it as .step(i, train_accuracy=...)"
        )
    columns = (curves.train, curves.test, curves.alignment)
    rows = sorted({int(row) for column in columns for row in column.rows})
    told: list[Phase] = []
    name, since, settled_at = "", 0, math.nan
    for row in rows:
        wait = rule.wait(curves, row) if curves.test.count(row) else _without_test(curves, row)
        before, name = name, _next(name, curves, row, wait, settled_at)
        if name != before:
            since = int(curves.steps[row])
            settled_at = curves.test.level(row) if name == "settled" else math.nan
        told.append(_phase(name, since, curves, row, wait))
    return told


def begun(told: Sequence[Phase]) -> list[Phase]:
    """Of what was told row by row, that at which another phase began."""
    return [each for at, each in enumerate(told) if at == 0 or each.name != told[at - 1].name]


def _next(
    name: str,
    curves: Curves,
    row: int,
    wait: Wait | None,
    settled_at: float,
) -> str:
    """The phase at a row, after that of the row before."""
    if curves.fitted(row) is None:
        return "fitting"
    if not curves.test.count(row):
        return "fitted"
    if name == "settled":
        rises = wait is not None and curves.test.level(row) - settled_at >= LEAST_GAIN
        return "generalizing" if rises else "settled"
    has_risen = name == "generalizing" or curves.has_risen(row)
    if wait is None and (has_risen or curves.had_risen(row)):
        return "settled"
    return "generalizing" if has_risen else "memorized"


def _without_test(curves: Curves, row: int) -> Wait:
    """What to wait for where no test accuracy is known."""
    if curves.fitted(row) is None:
        return not_fitted(curves, row)
    return Wait("test_accuracy", "test accuracy is not known: give the monitor test=(x, y)")


def _phase(name: str, since: int, curves: Curves, row: int, wait: Wait | None) -> Phase:
    step = float(curves.steps[row])
    test = curves.test.stretch(row, step, 2.0)
    alignment = curves.alignment.stretch(row, step, 2.0)
    # A network that was settled before stays so though the rule may wait for a moment again.
    waiting = wait if name != "settled" else None
    if waiting is not None:
        reason = waiting.reason
    elif name == "settled":
        reason = "generalization and alignment have settled"
    else:
        reason = "given up: neither test accuracy nor alignment moves"
    return Phase(
        name=name,
        since=since,
        step=int(step),
        waits_for=None if waiting is None else waiting.quantity,
        reason=reason,
        train_accuracy=curves.train.last(row),
        test_accuracy=curves.test.last(row),
        test_accuracy_gain=test.gain,
        alignment=curves.alignment.last(row),
        alignment_gain=alignment.gain,
        aligning=None if math.isnan(alignment.gain) else alignment.gain >= STEADY,
        gain_since=(test.since, alignment.since),
    )


def _gain(value: float, form: str, unit: str, since: float) -> str:
    if math.isnan(value):
        return "too few measurements to tell whether it rises"
    # adding 0 makes one zero of two, after rounding to the places that are shown
    shown = round(value, int(form[1])) + 0.0
    return f"{shown:+{form}}{unit} since step {since:,.0f}"
