"""A matrix over pairs of training steps, such as the distance between two kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

_HEIGHT = 410
_SMALL = {"size": 13, "color": "@muted"}
_MOST_LABELS = 12


def draw_heatmap(panel: HeatMap, context: Context) -> list[Drawing]:
    """A plot for each arm that has a matrix."""
    found = _from_results(panel, context) if panel.results else _from_arrays(panel, context)
    if not found:
        raise NothingToDraw(f"no arm of this run has stored {panel.arrays or panel.results}")
    top = max(float(np.nanmax(matrix)) for _, matrix in found.values())
    return [
        _plot(panel, context, arm, *_checked(panel, arm, steps, matrix), top)
        for arm, (steps, matrix) in found.items()
    ]


def _from_results(
    panel: HeatMap, context: Context
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    value = context.result(str(panel.results))
    if isinstance(value, Mapping) and "steps" in value:
        value = {"": value}
    if not isinstance(value, Mapping):
        raise PanelError(f"results: {panel.results} is no mapping with steps and a matrix")
    wanted = [name for name in value if name == "" or panel.arms is None or name in panel.arms]
    found = {}
    for name in wanted:
        entry = value[name]
        if not isinstance(entry, Mapping) or not {"steps", panel.key} <= set(entry):
            raise PanelError(f"results: {panel.results}.{name} needs steps and {panel.key}")
        found[name] = (_numbers(entry["steps"]), _numbers(entry[panel.key]))
    return found


def _from_arrays(
    panel: HeatMap, context: Context
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    found = {}
    for arm in context.arms(panel.arms):
        seed = context.run.seeds(arm)[0]
        stored = context.run.arrays(arm, seed, str(panel.arrays))
        if stored is None:
            continue
        if not {"steps", panel.key} <= set(stored):
            raise PanelError(f"arrays: {panel.arrays} of {arm} needs steps and {panel.key}")
        found[arm] = (_numbers(stored["steps"]), _numbers(stored[panel.key]))
    return found


def _checked(
    panel: HeatMap, arm: str, steps: NDArray[np.float64], matrix: NDArray[np.float64]
) -> tuple[list[int], NDArray[np.float64]]:
    if steps.ndim != 1 or matrix.shape != (len(steps), len(steps)) or len(steps) < 2:
        raise PanelError(
            f"{panel.key} of {arm or panel.results} has shape {matrix.shape} for steps of shape "
            f"{steps.shape}; it needs two steps or more and a square matrix over them"
        )
    return [int(step) for step in steps], matrix


def _plot(
    panel: HeatMap,
    context: Context,
    arm: str,
    steps: list[int],
    matrix: NDArray[np.float64],
    top: float,
) -> Drawing:
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
                "z": [numbers(row) for row in matrix],
                "customdata": [[[count(a), count(b)] for a in steps] for b in steps],
                "colorscale": "Viridis",
                "zmin": min(0.0, float(np.nanmin(matrix))),
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
                "hovertemplate": "steps %{customdata[0]} and %{customdata[1]}: %{z:.3~g}"
                "<extra></extra>",
            }
        ],
        "layout": layout(
            axis,
            {**axis, "scaleanchor": "x"},
            height=_HEIGHT,
            columns=("step", "other step", panel.value),
        ),
    }
    if arm in context.run.arms:
        for step, look in _marks(panel, context, arm):
            _draw_mark(figure, steps, step, look)
    title = f"{panel.title}: {context.run.arm_title(arm)}" if arm else panel.title
    far = number(float(matrix[0, -1]))
    return Drawing(
        title=title,
        caption=panel.caption,
        figure=figure,
        alt=f"{title}. Heat map over {len(steps)} steps, {count(steps[0])} to "
        f"{count(steps[-1])}; {panel.value} between the first and the last: {far}.",
        wide=panel.wide,
    )


def _marks(panel: HeatMap, context: Context, arm: str) -> list[tuple[float, str]]:
    """Steps to mark and the dash of their lines."""
    by_onset = panel.mark == "onset" or END not in context.summary.milestones
    if panel.mark != "none" and by_onset:
        return [
            (median(known), look)
            for moment, look in (("start", "dot"), ("end", "solid"))
            if (known := [at for one in onsets(context, arm) if (at := one.at(moment))])
        ]
    reached = context.summary.arm(arm).milestones if panel.mark == "milestones" else {}
    return [
        (times["steps"].median.low, "dot" if name == START else "solid")
        for name, times in reached.items()
        if times["steps"].median.is_exact
    ]


def _numbers(values: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PanelError(f"these are no numbers in rows of equal length: {error}") from None


def _ticks(steps: list[int]) -> tuple[list[int], list[str]]:
    """The places nearest to 0 and the powers of ten, labelled with the step that stands there.

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


def _draw_mark(figure: Figure, steps: list[int], step: float, look: str) -> None:
    """A line at a step in each direction."""
    # Between two evaluations as on a logarithmic axis; step 0 stands a factor of two before step 1.
    logs = np.log(np.maximum([step, *steps], 0.5))
    place = float(np.interp(logs[0], logs[1:], range(len(steps))))
    line = {"color": "#ffffff", "width": 1.5, "dash": look}
    whole = {"0": -0.5, "1": len(steps) - 0.5}
    for across, along in ("x", "y"), ("y", "x"):
        at = {f"{across}{end}": place for end in whole}
        to = {f"{along}{end}": value for end, value in whole.items()}
        figure["layout"]["shapes"].append({"type": "line", **at, **to, "line": line})
