"""What moves with generalization over a training: the geometry of representations, or the kernel.

Zheng et al. (*Delays in generalization match delayed changes in representational geometry*,
UniReps 2024) compare over the evaluations of a training how test accuracy and loss go with the
manifold capacity of each layer on test points, and with the distance of the tangent kernel from the
initial one; and how the geometry of training points goes with that of test points. The coefficient
is Pearson's. Cost: none to speak of.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.runs import History, Run

Column = NDArray[np.float64]

KERNEL = "ntk_distance_init"
GEOMETRY = ("capacity", "radius", "dimension")


def geometry_layers(history: History) -> list[str]:
    """The layers whose capacity on test points was recorded, in their order in the network."""
    prefix = "test_capacity/"
    return [name.removeprefix(prefix) for name in history.names if name.startswith(prefix)]


def last_value(history: History, column: str) -> float | None:
    """The last finite value of a column; None where there is none."""
    if column not in history:
        return None
    values = history[column][np.isfinite(history[column])]
    return float(values[-1]) if len(values) else None


def correlations(run: Run) -> dict[str, Any]:
    """Correlations over the evaluations of each training, and the points that they are of.

    Returns:
        ``correlations``: by arm, lists over seeds of

        - ``capacity``, ``radius``, ``dimension``: of test accuracy with that of the deepest layer;
        - ``kernel``: of test accuracy with the distance of the kernel from the initial one;
        - ``advantage``: ``capacity`` less ``kernel``;
        - ``least_advantage``: the least over all layers of that layer's capacity less ``kernel``;
        - ``train_test_capacity`` and so on: of the training points' with the test points';

        ``correlation_table``: rows of arm, what, and its coefficients with accuracy and loss
        (first seed). ``layer_evaluations``, ``output_evaluations``, ``kernel_evaluations``: points
        of the first seed for scatter plots, a mapping for each evaluation, with ``accuracy``,
        ``loss`` and either ``distance`` or ``layer``, ``capacity`` and so on and
        ``train_capacity`` and so on.
    """
    by_arm: dict[str, dict[str, list[float]]] = {}
    table: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    kernels: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for arm in run.arms:
        for place, seed in enumerate(run.seeds(arm)):
            history = run.history(arm, seed)
            for name, value in _correlations(history).items():
                by_arm.setdefault(arm, {}).setdefault(name, []).append(value)
            if place == 0:
                title = run.spec["arms"][arm].get("title") or arm
                table += [{"arm": title, **row} for row in _table(history)]
                points = [{"arm": arm, **point} for point in _points(history)]
                kernels += [point for point in points if point["layer"] == "kernel"]
                layers += [point for point in points if point["layer"] != "kernel"]
                deepest = geometry_layers(history)[-1:]
                outputs += [point for point in points if point["layer"] in deepest]
    return {
        "correlations": by_arm,
        "correlation_table": table,
        "layer_evaluations": layers,
        "output_evaluations": outputs,
        "kernel_evaluations": kernels,
    }


def pearson(a: Column, b: Column) -> float:
    """The correlation of two columns where both are known; NaN without three such rows.

    Example:
        >>> pearson(np.array([0.0, 1.0, 2.0, np.nan]), np.array([3.0, 2.0, 1.0, 0.0]))
        -1.0
    """
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1].round(12))


def _correlations(history: History) -> dict[str, float]:
    """The coefficients of one training that exist."""
    layers = geometry_layers(history)
    found: dict[str, float] = {}
    if KERNEL in history:
        found["kernel"] = pearson(history["test_accuracy"], history[KERNEL])
    for quantity in GEOMETRY if layers else ():
        test, train = f"test_{quantity}/{layers[-1]}", f"{quantity}/{layers[-1]}"
        found[quantity] = pearson(history["test_accuracy"], history[test])
        if train in history:
            found[f"train_test_{quantity}"] = pearson(history[train], history[test])
    if {"kernel", "capacity"} <= set(found):
        found["advantage"] = found["capacity"] - found["kernel"]
        every = [
            pearson(history["test_accuracy"], history[f"test_capacity/{layer}"]) for layer in layers
        ]
        found["least_advantage"] = min(every) - found["kernel"]
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _table(history: History) -> list[dict[str, Any]]:
    """A row for the kernel and for each layer and quantity of its geometry."""
    columns = {
        f"{quantity}, {layer}": f"test_{quantity}/{layer}"
        for layer in geometry_layers(history)
        for quantity in GEOMETRY
    }
    if KERNEL in history:
        columns = {"kernel distance": KERNEL, **columns}
    rows = []
    for what, column in columns.items():
        row: dict[str, Any] = {"what": what}
        for against in ("test_accuracy", "test_loss"):
            row[against.removeprefix("test_")] = _none(pearson(history[against], history[column]))
        train = column.removeprefix("test_")
        if train != column and train in history:
            row["train"] = _none(pearson(history[train], history[column]))
        rows.append(row)
    return rows


def _points(history: History) -> list[dict[str, Any]]:
    """The points of scatter plots: each evaluation at each layer, and at the kernel."""
    points = []
    layers = geometry_layers(history)
    for row in history:
        common = {"step": row["step"], "accuracy": row["test_accuracy"], "loss": row["test_loss"]}
        if row.get(KERNEL) is not None:
            points.append({**common, "layer": "kernel", "distance": row[KERNEL]})
        for layer in layers:
            if row.get(f"test_capacity/{layer}") is not None:
                own = {
                    name: row.get(column)
                    for quantity in GEOMETRY
                    for name, column in (
                        (quantity, f"test_{quantity}/{layer}"),
                        (f"train_{quantity}", f"{quantity}/{layer}"),
                    )
                }
                points.append({**common, "layer": layer, **own})
    return points


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None
