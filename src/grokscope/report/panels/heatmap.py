"""A matrix over training steps: of pairs, as the distance of kernels, or of steps and others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grokscope.findings.onset import over_seeds
from grokscope.findings.panels import HeatMap, PanelError
from grokscope.findings.summary import END, START
from grokscope.report.panels.drawing import Context, Drawing, NothingToDraw
from grokscope.report.panels.spans import onsets
from grokscope.report.plotting import (
    Figure,
    axis_style,
    axis_title,
    layout,
    numbers,
    plain,
    short_count,
)
from grokscope.report.wording import count, number

Numbers = NDArray[np.float64]
_HEIGHT = 410
_SMALL = {"size": 13, "color": "@muted"}
_MOST_LABELS = 12


class Matrix(NamedTuple):
    """A matrix with what its columns are, and its rows where these are not the steps too."""

    steps: Numbers
    values: Numbers
    rows: Numbers | None


def draw_heatmap(panel: HeatMap, context: Context) -> list[Drawing]:
    """A plot for each arm that has a matrix."""
    found = _from_results(panel, context) if panel.results else _from_arrays(panel, context)
    if not found:
        raise NothingToDraw(f"no arm of this run has stored {panel.arrays or panel.results}")
    top = max(float(np.nanmax(matrix.values)) for matrix in found.values())
    return [
        _plot(panel, context, arm, _checked(panel, arm, matrix), top)
        for arm, matrix in found.items()
    ]


def _from_results(panel: HeatMap, context: Context) -> dict[str, Matrix]:
    value = context.result(str(panel.results))
    if isinstance(value, Mapping) and "steps" in value:
        value = {"": value}
    if not isinstance(value, Mapping):
        raise PanelError(f"results: {panel.results} is no mapping with steps and a matrix")
    wanted = [name for name in value if name == "" or panel.arms is None or name in panel.arms]
    found = {}
    for name in wanted:
        entry = value[name] if isinstance(value[name], Mapping) else {}
        found[name] = _matrix(panel, f"results: {panel.results}.{name}", entry)
    return found


def _from_arrays(panel: HeatMap, context: Context) -> dict[str, Matrix]:
    found = {}
    for arm in context.arms(panel.arms):
        seed = context.run.seeds(arm)[0]
        stored = context.run.arrays(arm, seed, str(panel.arrays))
        if stored is not None:
            found[arm] = _matrix(panel, f"arrays: {panel.arrays} of {arm}", stored)
    return found


def _matrix(panel: HeatMap, where: str, entry: Mapping[str, Any]) -> Matrix:
    """The matrix that results or tensors hold."""
    names = ["steps", panel.key, *([panel.rows] if panel.rows else [])]
    if not set(names) <= set(entry):
        raise PanelError(f"{where} needs {', '.join(names[:-1])} and {names[-1]}")
    found = [_numbers(entry[name]) for name in names]
    return Matrix(found[0], found[1], found[2] if panel.rows else None)


def _checked(panel: HeatMap, arm: str, matrix: Matrix) -> Matrix:
    steps, values, rows = matrix
    height = len(steps) if rows is None else len(rows)
    if steps.ndim != 1 or len(steps) < 2 or values.shape != (height, len(steps)):
        wanted = "a square matrix over them" if rows is None else f"a column of {height} for each"
        raise PanelError(
            f"{panel.key} of {arm or panel.results} has shape {values.shape} for steps of shape "
            f"{steps.shape}; it needs two steps or more and {wanted}"
        )
    return matrix


def _plot(
    panel: HeatMap,
    context: Context,
    arm: str,
    matrix: Matrix,
    top: float,
) -> Drawing:
    values, rows = matrix.values, matrix.rows
    steps = [int(step) for step in matrix.steps]
    places, texts = _ticks(steps)
    axis = {
        "title": axis_title("training step"),
        "tickvals": places,
        "ticktext": texts,
        "tickangle": 0,
        "constrain": "domain",
        **axis_style(),
        "showgrid": False,
    }
    figure: Figure = {
        "data": [
            {
                "type": "heatmap",
                "z": [numbers(row) for row in values],
                **({} if rows is None else {"y": numbers(rows)}),
                "customdata": [
                    [[count(a), count(b) if rows is None else number(b)] for a in steps]
                    for b in (steps if rows is None else rows)
                ],
                "colorscale": "Viridis",
                "zmin": min(0.0, float(np.nanmin(values))),
                "zmax": top,
                "colorbar": {
                    "orientation": "h",
                    "y": 1.02,
                    "yanchor": "bottom",
                    "title": {"text": plain(panel.value), "side": "top", "font": _SMALL},
                    "thickness": 10,
                    "outlinewidth": 0,
                    "tickfont": {"color": "@muted"},
                },
                "hovertemplate": (
                    "steps %{customdata[0]} and %{customdata[1]}"
                    if rows is None
                    else f"step %{{customdata[0]}}, {plain(panel.rows)} %{{customdata[1]}}"
                )
                + ": %{z:.3~g}<extra></extra>",
            }
        ],
        "layout": layout(
            axis,
            {**axis, "scaleanchor": "x"}
            if rows is None
            else {"title": axis_title(str(panel.rows)), **axis_style(), "showgrid": False},
            height=_HEIGHT,
            columns=("step", panel.rows or "other step", panel.value),
        ),
    }
    if arm in context.run.arms:
        for step, look in _marks(panel, context, arm):
            _draw_mark(figure, steps, step, look, both=rows is None)
    title = f"{panel.title}: {context.run.arm_title(arm)}" if arm else panel.title
    far = number(float(values[0, -1]))
    over = f"{len(steps)} steps, {count(steps[0])} to {count(steps[-1])}"
    if rows is None:
        said = f"Heat map over {over}; {panel.value} between the first and the last: {far}."
    else:
        largest = number(float(rows[int(np.nanargmax(values[:, -1]))]))
        said = f"Heat map of {panel.rows} over {over}; at the last, largest at {largest}."
    return Drawing(
        title=title,
        caption=panel.caption,
        figure=figure,
        alt=f"{title}. {said}",
        wide=panel.wide,
    )


def _marks(panel: HeatMap, context: Context, arm: str) -> list[tuple[float, str]]:
    """Steps to mark and the dash of their lines."""
    by_onset = panel.mark == "onset" or END not in context.summary.milestones
    if panel.mark != "none" and by_onset:
        found = onsets(context, arm)
        return [
            (at.low, look)
            for moment, look in (("start", "dot"), ("end", "solid"))
            if found and (at := over_seeds(found, moment).median).is_exact
        ]
    reached = context.summary.arm(arm).milestones if panel.mark == "milestones" else {}
    return [
        (times["steps"].median.low, "dot" if name == START else "solid")
        for name, times in reached.items()
        if times["steps"].median.is_exact
    ]


def _numbers(values: Any) -> Numbers:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PanelError(f"these are no numbers in rows of equal length: {error}") from None


def _ticks(steps: list[int]) -> tuple[list[int], list[str]]:
    """The places nearest to 0 and the powers of ten, labeled with the step that stands there.

    A label that would run into the one before it is left out.
    """
    last = max(steps)
    wanted = [0, *(10**power for power in range(math.floor(math.log10(max(last, 1))) + 1))]
    places: list[int] = []
    for step in wanted:
        place = min(range(len(steps)), key=lambda i: abs(steps[i] - step))
        if not places or place - places[-1] >= len(steps) / _MOST_LABELS:
            places.append(place)
    return places, [short_count(steps[place]) for place in places]


def _draw_mark(
    figure: Figure, steps: list[int], step: float, look: str, *, both: bool = True
) -> None:
    """A line at a step, where rows are steps too in both directions."""
    # Between two evaluations as on a logarithmic axis; step 0 stands a factor of two before step 1.
    logs = np.log(np.maximum([step, *steps], 0.5))
    place = float(np.interp(logs[0], logs[1:], range(len(steps))))
    line = {"color": "#ffffff", "width": 1.5, "dash": look}
    if not both:
        at = {"x0": place, "x1": place, "xref": "x", "y0": 0, "y1": 1, "yref": "paper"}
        figure["layout"]["shapes"].append({"type": "line", **at, "line": line})
        return
    whole = {"0": -0.5, "1": len(steps) - 0.5}
    for across, along in ("x", "y"), ("y", "x"):
        at = {f"{across}{end}": place for end in whole}
        to = {f"{along}{end}": value for end, value in whole.items()}
        figure["layout"]["shapes"].append({"type": "line", **at, **to, "line": line})
