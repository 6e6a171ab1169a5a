"""How long training took to a target, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from grokscope.findings.statistics import Sample
from grokscope.runs.history import History

Unit = Literal["steps", "seconds"]


def time_to(
    histories: Iterable[History],
    metric: str,
    target: float,
    unit: Unit = "steps",
    since: float | None = None,
) -> Sample:
    """Steps or training seconds until a metric is at or above a target, a value for each seed.

    A seed that never got there is censored where its training ended.

    Args:
        histories: one for each seed, each with rows.
        metric: column that has the target.
        target: what it has to reach.
        unit: "steps" or "seconds".
        since: count from where the metric first is at or above this, not from the start.

    Example:
        >>> rows = [{"step": 0, "a": 0.1}, {"step": 100, "a": 0.3}, {"step": 900, "a": 0.9}]
        >>> time_to([History(rows)], "a", 0.9).median.text()
        '900'
        >>> time_to([History(rows)], "a", 0.95, since=0.2).median.text()
        'at least 800'
    """
    values, limits = [], []
    for history in histories:
        clock = history.steps if unit == "steps" else history["train_seconds"]
        begin = 0.0 if since is None else _at(history, clock, metric, since)
        end = _at(history, clock, metric, target)
        values.append(None if begin is None or end is None else end - begin)
        limits.append(0.0 if begin is None else float(clock[-1]) - begin)
    return Sample.censored(values, limits)


def _at(history: History, clock: np.ndarray, metric: str, target: float) -> float | None:
    step = history.first_step(metric, target)
    return None if step is None else float(clock[np.argmax(history.steps == step)])
