"""What goes on in the representation once test accuracy has settled.

Zheng et al. 2024, Figure 3: in the network that generalizes at once, manifolds go on shrinking
long after test accuracy has stopped to rise, a late compression. The span is from the first step
at which test accuracy has made 99 % of its way from its first to its highest value, to the last.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from grokscope.experiments.analyses.correlations import geometry_layers
from grokscope.findings.onset import value_at
from grokscope.runs import History, Run

_SETTLED = 0.99


def late_compression(run: Run) -> dict[str, Any]:
    """The late span of each arm, and what the deepest layer does in it.

    Returns:
        ``late_spans``: start and end by arm, medians over seeds, for arms whose span is half a
        decade or longer. ``late``: by arm, lists over seeds of ``capacity``, ``radius`` and
        ``dimension`` on test points at the end over those at the start.
    """
    spans, late = {}, {}
    for arm in run.arms:
        histories = [run.history(arm, seed) for seed in run.seeds(arm)]
        starts = [settled(history) for history in histories]
        start = float(median(starts))
        end = float(median(history.steps[-1] for history in histories))
        if end >= 10**0.5 * max(start, 1.0):
            spans[arm] = {"start": start, "end": end}
        late[arm] = {
            quantity: [
                history[column][np.isfinite(history[column])][-1] / value_at(history, column, at)
                for history, at in zip(histories, starts, strict=True)
                if (column := f"test_{quantity}/{geometry_layers(history)[-1]}") in history
            ]
            for quantity in ("capacity", "radius", "dimension")
            if all(geometry_layers(history) for history in histories)
        }
    return {"late_spans": spans, "late": late}


def settled(history: History) -> float:
    """The first step at which test accuracy has all but reached its highest."""
    accuracy = history["test_accuracy"]
    level = accuracy[0] + _SETTLED * (np.nanmax(accuracy) - accuracy[0])
    return float(history.steps[np.argmax(accuracy >= level)])
