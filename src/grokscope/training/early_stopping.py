"""Is more training worth it? A rule that stops when generalization and alignment have settled.

Accuracies alone cannot tell a network that has finished from one that memorizes and will generalize
much later: both stand still. GrokAlign (Walker et al. 2025) explains the wait by the Jacobians,
which turn towards the training data long before test accuracy rises. The rule looks at both, in
logarithmic time, in which such changes happen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grokscope.arguments import check_fields
from grokscope.findings.onset import onset
from grokscope.runs import History

Column = NDArray[np.float64]

_STEADY = 0.01  # what may change for each doubling of the steps
ALIGNMENTS = ("row_alignment", "centroid_alignment")


@dataclass(frozen=True)
class StopWhenSettled:
    """Stops a training in which nothing is left to wait for.

    It is a function of the history alone, so that a resumed training stops where it would have.
    Asked at step s, it looks back to ``s / patience``, and says stop where

    - the training data were memorized by then (99 % training accuracy);
    - test accuracy has risen since, or never lagged behind (``grokscope.onset``), and in the
      stretch rose by less than 0.01 for each doubling of the steps;
    - alignment stands above where it began, by ``aligned`` or more: a network that has fitted its
      data without turning to them may be on a memorization plateau, whatever its accuracy;
    - and alignment kept within 0.01 for each doubling, up or down.

    Alignment is that of the rows (``row_alignment``) or else of the centroids, which say less:
    under cross-entropy the optimal rows cancel in them.

    Args:
        patience: the factor by which steps must grow while nothing moves.
        aligned: by how much alignment must have risen since the first reading.
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
        found = onset(history)
        if found.state == "fitting" or found.memorized is None:
            return "the training data are not yet memorized"
        if found.state == "never":
            return self._on_plateau(history, found.memorized)
        if found.rising or _rises(history, self.patience):
            return "test accuracy is rising"
        if found.memorized * self.patience > found.last:
            return "the training data were memorized only lately"
        if not self.use_alignment:
            return None
        steps, alignment = _alignment(history)
        if float(np.median(alignment[-3:])) - alignment[0] < self.aligned:
            return "the network has not aligned with its training data"
        if _moves(steps, alignment, self.patience):
            return "alignment is still changing"
        return None

    def _on_plateau(self, history: History, memorized: float) -> str | None:
        """What to wait for where the training data are known and test accuracy has not risen."""
        moving = self.use_alignment and _moves(*_alignment(history), self.patience)
        says = "the network has memorized and " + ("is aligning" if moving else "not generalized")
        if self.give_up is None or memorized * self.give_up > float(history.steps[-1]):
            return says
        aligning = self.use_alignment and _moves(*_alignment(history), self.give_up)
        return says if aligning or _rises(history, self.give_up) else None

    def _check(self, history: History) -> None:
        if "test_accuracy" not in history or np.isnan(history["test_accuracy"]).all():
            raise ValueError(
                "StopWhenSettled needs test_accuracy: give the monitor test=(x, y), or pass it as "
                ".step(i, test_accuracy=...)"
            )
        if self.use_alignment and not any(name in history for name in ALIGNMENTS):
            raise ValueError(
                f"StopWhenSettled needs one of {' and '.join(ALIGNMENTS)}: let a monitor measure "
                "it, or set use_alignment=False"
            )


def _alignment(history: History) -> tuple[Column, Column]:
    """Steps and values where alignment was read."""
    column = history[next(name for name in ALIGNMENTS if name in history)]
    known = ~np.isnan(column)
    return history.steps[known].astype(np.float64), column[known]


def _moves(steps: Column, values: Column, factor: float) -> bool:
    """Whether values have changed since steps were ``1 / factor`` of what they are."""
    stretch = values[steps >= steps[-1] / factor]
    return float(stretch.max() - stretch.min()) >= _STEADY * math.log2(factor)


def _rises(history: History, factor: float) -> bool:
    """Whether test accuracy has risen since; by medians of three readings at the ends."""
    column = history["test_accuracy"]
    known = ~np.isnan(column)
    stretch = column[known & (history.steps >= history.steps[-1] / factor)]
    gain = float(np.median(stretch[-3:]) - np.median(stretch[:3]))
    return gain >= _STEADY * math.log2(factor)
