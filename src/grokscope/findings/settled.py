"""Is more training worth it? A rule that stops when generalization and alignment have settled.

Accuracies alone cannot tell a network that has finished from one that memorizes and will generalize
much later: both stand still. GrokAlign (Walker et al. 2025) explains the wait by the Jacobians,
which turn towards the training data long before test accuracy rises. The rule looks at both, in
logarithmic time, in which such changes happen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from grokscope.arguments import check_fields
from grokscope.findings.curves import ALIGNMENTS, FEWEST, TEST, Curves, Readings
from grokscope.findings.onset import LEAST_GAIN, MEMORIZED
from grokscope.runs.history import History
from grokscope.shown import shown

STEADY = 0.01  # what may change for each doubling of the steps


class Wait(NamedTuple):
    """What is still to come, and why: the quantity by the name of its column."""

    quantity: str
    reason: str


@shown()
@dataclass(frozen=True)
class StopWhenSettled:
    """Stops a training in which nothing is left to wait for.

    It is a function of the history alone, so that a resumed training stops where it would have.
    Asked at step s, it looks back to ``s / patience``, and says stop where

    - the training data were memorized by then (99 % training accuracy);
    - the network has generalized: test accuracy has made a tenth of its way from there to 1, was
      within 0.1 of it, or was half-way to it on fitting;
    - test accuracy rose by less than 0.01 for each doubling of the steps in the stretch;
    - alignment stands above where it began, by ``aligned`` or more: a network that has fitted its
      data without turning to them may be on a memorization plateau, whatever its accuracy;
    - alignment kept within 0.01 for each doubling, up or down;
    - and there are three measurements of both in the stretch: fewer do not tell.

    Alignment is that of the rows (``row_alignment``) or else of the centroids, which say less:
    under cross-entropy the optimal rows cancel in them.

    Args:
        patience: the factor by which steps must grow while nothing moves.
        aligned: by how much alignment must have risen since its first measurement.
        use_alignment: False looks at accuracies alone, and stops on slow plateaus.
        give_up: stop also where a network has memorized and not generalized, and neither test
            accuracy nor alignment has moved while steps grew by this factor; None never gives up.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        In one's own loop:

        >>> import torch, grokscope as gs
        >>> model = gs.MLP(5, [8], 3, seed=0)
        >>> data = torch.randn(16, 5), torch.arange(16) % 3
        >>> monitor = gs.Monitor(model, probe=data, test=data)
        >>> stop = gs.StopWhenSettled()
        >>> for i in range(11):  # a training loop
        ...     if monitor.step(i) and stop(monitor.history):
        ...         break
        >>> stop.reason(monitor.history)
        'the training data are not yet memorized'
    """

    patience: float = 4.0
    aligned: float = 0.05
    use_alignment: bool = True
    give_up: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("patience", self.patience), ("give_up", self.give_up)):
            if value is not None and not 2 <= value < math.inf:
                raise ValueError(f"{name} must be a factor of 2 or more: got {value}")
        if not 0 <= self.aligned < 1:
            raise ValueError(f"aligned must be from 0 to 1: got {self.aligned}")

    def __call__(self, history: History) -> bool:
        """Whether training may stop at the last row of a history.

        Raises:
            ValueError: if the history lacks the test accuracy or the alignment.
        """
        return self.waits_for(history) is None

    def reason(self, history: History) -> str:
        """What speaks for going on, or that nothing does."""
        return self.waits_for(history) or "generalization and alignment have settled"

    def waits_for(self, history: History) -> str | None:
        """What is still to come at the last row; None where nothing is."""
        self._check(history)
        wait = self.wait(Curves(history), len(history) - 1)
        return None if wait is None else wait.reason

    def wait(self, curves: Curves, row: int) -> Wait | None:
        """What is still to come at a row of a training, from the rows so far."""
        step = float(curves.steps[row])
        fitted = curves.fitted(row)
        if fitted is None:
            return not_fitted(curves, row)
        if not curves.has_risen(row) and not curves.had_risen(row):
            return self._on_plateau(curves, row, step, fitted)
        if self._rises(curves, row, step, self.patience):
            return Wait(TEST, "test accuracy is rising")
        if fitted * self.patience > step:
            return Wait(TEST, "the training data were memorized only lately")
        if (few := self._too_few(TEST, curves.test, row, step)) or not self.use_alignment:
            return few
        name = curves.aligned_by
        if name is None:
            return Wait(ALIGNMENTS[0], "alignment was not recorded")
        if curves.alignment_rise(row) < self.aligned:
            return Wait(name, "the network has not aligned with its training data")
        if self._moves(curves, row, step, self.patience):
            return Wait(name, "alignment is still changing")
        return self._too_few(name, curves.alignment, row, step)

    def _on_plateau(self, curves: Curves, row: int, step: float, fitted: float) -> Wait | None:
        """What to wait for where the training data are known and test accuracy has not risen."""
        turning = (
            self._moves(curves, row, step, self.patience)
            and curves.alignment.stretch(row, step, self.patience).gain > 0
        )
        says = Wait(
            TEST,
            "the network has memorized and " + ("is aligning" if turning else "not generalized"),
        )
        if self.give_up is None or fitted * self.give_up > step:
            return says
        changes = (of(curves, row, step, self.give_up) for of in (self._moves, self._rises))
        return says if any(changes) else None

    def _moves(self, curves: Curves, row: int, step: float, factor: float) -> bool:
        """Whether alignment has changed since steps were ``1 / factor`` of what they are."""
        spread = curves.alignment.stretch(row, step, factor).spread
        return self.use_alignment and spread >= STEADY * math.log2(factor)

    @staticmethod
    def _rises(curves: Curves, row: int, step: float, factor: float) -> bool:
        """Whether test accuracy has risen since, or over the last factor of two by twice that."""
        lately = curves.test.stretch(row, step, 2.0).gain
        return lately >= LEAST_GAIN or curves.test.stretch(
            row, step, factor
        ).gain >= STEADY * math.log2(factor)

    def _too_few(self, name: str, readings: Readings, row: int, step: float) -> Wait | None:
        count = readings.stretch(row, step, self.patience).count
        if count >= FEWEST:
            return None
        return Wait(
            name,
            f"too few measurements to tell: {count} of {name} while steps grew "
            f"{self.patience:g}-fold, {FEWEST} are needed",
        )

    def _check(self, history: History) -> None:
        if TEST not in history or np.isnan(history[TEST]).all():
            raise ValueError(
                "StopWhenSettled needs test_accuracy: give the monitor test=(x, y), or pass it as "
                ".step(i, test_accuracy=...)"
            )
        if self.use_alignment and not any(name in history for name in ALIGNMENTS):
            raise ValueError(
                f"StopWhenSettled needs one of {' and '.join(ALIGNMENTS)}: let a monitor measure "
                "it, or set use_alignment=False"
            )


def not_fitted(curves: Curves, row: int) -> Wait:
    """What to wait for where it is not known yet that the training data are fitted."""
    said = "the training data are not yet memorized"
    if curves.train.last(row) >= MEMORIZED:
        said = "the training data are memorized by the last measurement alone: the next one tells"
    return Wait(curves.trained_by or "train_accuracy", said)
