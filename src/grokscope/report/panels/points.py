"""Points in the plane: computed values against each other, and embeddings of representations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from grokscope.findings.panels import Embedding, PanelError, Scatter
from grokscope.report.panels.drawing import Context, Drawing, Key, NothingToDraw
from grokscope.report.plotting import (
    Figure,
    arm_color,
    axis_style,
    axis_title,
    layout,
    log_ticks,
    marker,
    numbers,
    plain,
)
from grokscope.report.wording import count, number


def draw_scatter(panel: Scatter, context: Context) -> list[Drawing]:
    """The plot."""
    series = _series(panel, context)
    if not series:
        raise NothingToDraw(f"results.json has no points of {panel.x} and {panel.y}")
    points = [row for rows in series.values() for row in rows]
    axes = [
        _axis(panel, panel.x_title or panel.x, panel.x_scale, [row[panel.x] for row in points]),
        _axis(panel, panel.y_title or panel.y, panel.y_scale, [row[panel.y] for row in points]),
    ]
    columns = (panel.x_title or panel.x, panel.y_title or panel.y, *filter(None, [panel.label]))
    figure: Figure = {"data": [], "layout": layout(*axes, columns=columns)}
    keys = []
    for place, (name, rows) in enumerate(series.items()):
        own = context.colors.get(name, place)
        color = arm_color(own)
        figure["data"].append(_trace(panel, context, name, rows, color, marker(own)))
        if name:
            title = context.run.arm_title(name)
            line = "solid" if panel.connect else None
            keys.append(Key(title, color, name, marker(own), line))
    return [
        Drawing(
            title=panel.title,
            caption=panel.caption,
            figure=figure,
            keys=tuple(keys),
            alt=_alt(panel, context, series),
            wide=panel.wide,
        )
    ]


def _series(panel: Scatter, context: Context) -> dict[str, list[Mapping[str, Any]]]:
    """The rows with both values by the name of their series, each from left to right."""
    rows = context.result(panel.results)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise PanelError(f"results: {panel.results} is no list of mappings")
    wanted = [panel.x, panel.y, *(name for name in (panel.series, panel.label) if name)]
    for row in rows:
        missing = [name for name in wanted if name not in row]
        if missing:
            raise PanelError(
                f"results: {panel.results} has a row without {missing[0]!r}; it has "
                f"{', '.join(row)}"
            )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if _drawable(panel, row):
            found.setdefault(str(row[panel.series]) if panel.series else "", []).append(row)
    return {name: sorted(part, key=lambda row: row[panel.x]) for name, part in found.items()}


def _drawable(panel: Scatter, row: Mapping[str, Any]) -> bool:
    for name, scale in ((panel.x, panel.x_scale), (panel.y, panel.y_scale)):
        value = row[name]
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if scale == "log" and value <= 0:
            return False
    return True


def _axis(panel: Scatter, title: str, scale: str, values: list[float]) -> dict[str, Any]:
    axis = {"type": scale, "title": axis_title(title), "automargin": True, **axis_style()}
    return axis | (log_ticks(values) if scale == "log" else {})


def _trace(
    panel: Scatter,
    context: Context,
    name: str,
    rows: list[Mapping[str, Any]],
    color: str,
    symbol: str,
) -> dict[str, Any]:
    labels = [context.run.arm_title(str(row[panel.label])) if panel.label else "" for row in rows]
    return {
        "type": "scatter",
        "mode": "lines+markers" if panel.connect else "markers",
        "name": plain(name),
        "meta": name,
        "x": numbers(row[panel.x] for row in rows),
        "y": numbers(row[panel.y] for row in rows),
        "customdata": [plain(label) for label in labels],
        "line": {"color": color, "width": 1.5},
        "marker": {"size": 9, "color": color, "symbol": symbol},
        "hovertemplate": f"%{{customdata}}<br>{plain(panel.x_title or panel.x)}: %{{x:.3~g}}"
        f"<br>{plain(panel.y_title or panel.y)}: %{{y:.3~g}}<extra></extra>",
    }


def _alt(panel: Scatter, context: Context, series: Mapping[str, list[Mapping[str, Any]]]) -> str:
    parts = []
    for name, rows in series.items():
        of = f"{context.run.arm_title(name)}: " if name else ""
        left, right = (
            f"{number(row[panel.x])}, {number(row[panel.y])}" for row in (rows[0], rows[-1])
        )
        parts.append(f"{of}{count(len(rows))} points from ({left}) to ({right})")
    return f"{panel.title}. {'; '.join(parts)}."


# Okabe and Ito's colors, which people who see few colors can tell apart, and three more.
_COLORS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#8c8c8c",
    "#7a4a1e",
    "#7d5fb2",
)


def draw_embedding(panel: Embedding, context: Context) -> list[Drawing]:
    """A plot for each arm and step."""
    drawings = []
    for arm in context.arms(panel.arms):
        seed = context.run.seeds(arm)[0]
        stored = context.run.arrays(arm, seed, panel.arrays)
        if stored is None:
            continue
        if not {"steps", "points", "y"} <= set(stored):
            raise PanelError(f"arrays: {panel.arrays} of {arm} needs steps, points and y")
        points, y = np.asarray(stored["points"], dtype=np.float64), np.asarray(stored["y"])
        for step, places in zip(stored["steps"].tolist(), points, strict=True):
            drawings.append(_plot(panel, context, arm, int(step), places, y))
    if not drawings:
        why = context.run.results.get("no_embedding")
        raise NothingToDraw(why or f"no arm of this run has stored {panel.arrays}")
    return drawings


def _plot(panel: Embedding, context: Context, arm: str, step: int, points: Any, y: Any) -> Drawing:
    title = f"{panel.title}: {context.run.arm_title(arm)}, step {count(step)}"
    bare = {"visible": False, "automargin": False}
    figure: Figure = {
        "data": [],
        "layout": layout(bare, {**bare, "scaleanchor": "x"}, columns=("x", "y")),
    }
    classes = sorted(set(y.tolist()))
    for label in classes:
        own = points[y == label]
        figure["data"].append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"class {label}",
                "meta": f"class {label}",
                "x": numbers(own[:, 0]),
                "y": numbers(own[:, 1]),
                "marker": {
                    "size": 6,
                    "color": _COLORS[label % len(_COLORS)],
                    "symbol": marker(label),
                },
                "hovertemplate": "%{fullData.name}<extra></extra>",
            }
        )
    return Drawing(
        title=title,
        caption=panel.caption,
        figure=figure,
        keys=tuple(
            Key(f"{label}", _COLORS[label % len(_COLORS)], f"class {label}", marker(label), None)
            for label in classes
        ),
        alt=f"{title}. {len(points)} points of {len(classes)} classes.",
        wide=panel.wide,
    )
