"""Pictures of linear regions on a slice, in matplotlib.

They draw what ``grokscope.linear_regions`` returns, by its attributes alone (outlines, areas,
edges, decision boundary), and import nothing that finds regions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLORINGS = ("norm", "class", "layer", "area", "none")


def cell_values(regions: Any, color: str | Any) -> tuple[Floats | None, str]:
    """One number for each cell, and what it is.

    Args:
        regions: the partition.
        color: ``"norm"`` (of the cell's linear operator in input space), ``"class"``, ``"layer"``
            (the last layer that made one of the cell's sides, counted from 1), ``"area"`` (its
            logarithm to base 10), ``"none"``, or an array (F,) of one's own.
    """
    if not isinstance(color, str):
        values = np.asarray(color, dtype=np.float64)
        if values.shape != (len(regions.polygons),):
            raise ValueError(
                f"color must have one number for each of the {len(regions.polygons)} cells: "
                f"got shape {values.shape}"
            )
        return values, ""
    if color == "norm":
        return np.asarray(regions.operator_norms()), "norm of the linear operator"
    if color == "class":
        return np.asarray(regions.classes(), dtype=np.float64), "class"
    if color == "area":
        areas = np.asarray(regions.areas)
        return np.log10(np.maximum(areas, areas.max() * 1e-12)), "log10 area"
    if color == "layer":
        return _last_layer(regions), "last layer to cut"
    if color == "none":
        return None, ""
    raise ValueError(f"color must be one of {', '.join(COLORINGS)} or an array: got {color!r}")


def _last_layer(regions: Any) -> Floats:
    last = np.full(len(regions.polygons), -1)
    cells, layer = np.asarray(regions.edge_cells), np.asarray(regions.edge_layer)
    for side in (0, 1):
        inner = cells[:, side] >= 0
        np.maximum.at(last, cells[inner, side], layer[inner])
    return last + 1.0


def plot_regions(
    regions: Any,
    ax: Any = None,
    *,
    color: str | Any = "norm",
    edges: bool = True,
    decision_boundary: bool = True,
    points: Any = None,
    point_classes: Any = None,
    centroids: Any = None,
    cmap: str | None = None,
) -> Any:
    """Draw a partition with matplotlib, and return the axes.

    Args:
        regions: what ``grokscope.linear_regions`` returned.
        ax: the axes to draw on; a new figure's by default.
        color: what fills the cells: ``"norm"``, ``"class"``, ``"layer"``, ``"area"``, ``"none"``
            or one number for each cell.
        edges: whether to draw the cells' sides.
        decision_boundary: whether to draw where the largest output changes.
        points: (n, 2), data points in slice coordinates (``slice.coordinates(x)``).
        point_classes: (n,), their classes.
        centroids: (n, 2), centroids in slice coordinates.
        cmap: a matplotlib color map.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for an unknown ``color``.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.collections import LineCollection, PolyCollection
    except ImportError as error:
        raise ImportError(
            "plot_regions needs matplotlib: pip install 'grokscope[figures]'"
        ) from error
    values, label = cell_values(regions, color)
    if ax is None:
        ax = pyplot.figure(figsize=(6, 5), layout="constrained").add_subplot()
    if values is not None:
        outlines = [np.asarray(polygon) for polygon in regions.polygons]
        named = isinstance(color, str) and color in ("class", "layer")
        cmap = cmap or ("tab10" if named else "viridis")
        fill = PolyCollection(outlines, array=values, cmap=cmap, linewidth=0)
        fill.set_antialiased(False)
        ax.add_collection(fill)
        if label and color != "class":
            ax.figure.colorbar(fill, ax=ax, label=label)
    if edges:
        sides = np.asarray(regions.vertices)[np.asarray(regions.edges)]
        # thinner lines for more cells, so that the fill stays visible
        width = float(np.clip(12 / np.sqrt(len(regions.polygons)), 0.05, 0.8))
        lines = LineCollection(list(sides), colors="black", linewidths=width, alpha=0.6)
        ax.add_collection(lines)
    if decision_boundary:
        pieces = np.asarray(regions.decision_boundary().segments)
        ax.add_collection(LineCollection(list(pieces), colors="crimson", linewidths=1.5))
    _mark(ax, points, point_classes, centroids)
    vertices = np.asarray(regions.vertices)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_aspect("equal")
    return ax


def _mark(ax: Any, points: Any, classes: Any, centroids: Any) -> None:
    if points is not None:
        look: dict[str, Any] = (
            {"c": "white"} if classes is None else {"c": np.asarray(classes), "cmap": "tab10"}
        )
        ax.scatter(*np.asarray(points).T, edgecolors="black", s=40, zorder=4, **look)
    if centroids is not None:
        ax.scatter(
            *np.asarray(centroids).T, c="gold", marker="*", edgecolors="black", s=90, zorder=5
        )
