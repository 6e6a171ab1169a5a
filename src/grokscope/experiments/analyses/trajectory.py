"""Where a metric began and where it ended, for experiments that are about one metric."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.runs import History


def trajectory(trained: AnalysisInput, *, metric: str, name: str = "") -> dict[str, Any]:
    """The first, the largest and the last value of a metric in every arm.

    Args:
        trained: an experiment whose monitor measured ``metric``.
        metric: the column.
        name: what to call it in a sentence; the column's own name by default.

    Returns:
        ``finding``: a sentence. ``arms``: by arm, lists over seeds of ``first``, ``largest`` and
        ``last``. ``table``: by title of arm, their medians.

    Raises:
        ValueError: if an arm has no value of ``metric``.
    """
    run = trained.run
    arms, table = {}, {}
    for arm in run.arms:
        columns = [_measured(run.history(arm, seed), metric, arm) for seed in run.seeds(arm)]
        arms[arm] = {
            "first": [float(values[0]) for values in columns],
            "largest": [float(values.max()) for values in columns],
            "last": [float(values[-1]) for values in columns],
        }
        title = run.spec["arms"][arm]["title"] or arm
        table[title] = {moment: median(values) for moment, values in arms[arm].items()}
    ends = ", ".join(
        f"{moments['first']:.2f} to {moments['last']:.2f} ({title})"
        for title, moments in table.items()
    )
    return {"finding": f"{name or metric}: {ends}", "arms": arms, "table": table}


def _measured(history: History, metric: str, arm: str) -> NDArray[np.float64]:
    if metric not in history or np.isnan(history[metric]).all():
        raise ValueError(f"{arm} has no value of {metric}: name it in monitor.measures")
    return history[metric][~np.isnan(history[metric])]
