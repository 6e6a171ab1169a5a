"""Columns of the metrics over training steps: lines of seeds, their median, bands around them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.findings.panels import Curves, PanelError, ResultSpans
from grokscope.report.panels.drawing import Context, Drawing, Key, NothingToDraw
from grokscope.report.panels.spans import (
    Span,
    delay_spans,
    draw_spans,
    onset_spans,
    result_spans,
)
from grokscope.report.plotting import (
    MAX_MARKERS,
    Figure,
    StepAxis,
    axis_title,
    dash,
    layer_color,
    layout,
    log_ticks,
    marker,
    numbers,
    plain,
    shade,
)
from grokscope.report.wording import count, metric_value
from grokscope.runs import History

Trace = dict[str, Any]
Ends = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

_FEW = 12  # with fewer evaluations than this, each has its marker


@dataclass(frozen=True)
class Pen:
    """How a column is drawn, and the ``target`` that its legend hides; without marker if empty."""

    name: str
    color: str
    dash: str
    marker: str
    target: str
    value_format: str = ".4~g"

    def faint(self, opacity: float) -> str:
        """A paler shade of the color."""
        return f"{self.color}/{opacity:g}"


def draw_curves(panel: Curves, context: Context) -> list[Drawing]:
    """One plot, or one for each arm where columns have the colors."""
    arms = [
        arm
        for arm in context.arms(panel.arms)
        if any(name in one for one in _histories(panel, context, arm) for name in panel.columns)
    ]
    if not arms:
        first, *others = panel.columns
        rest = f" and none of {len(others)} more columns" if others else ""
        raise NothingToDraw(f"this run has recorded no {first}{rest}")
    if panel.color_by == "arm":
        return [_plot(panel, context, arms, panel.title)]
    titles = [f"{panel.title}: {context.run.arm_title(arm)}" for arm in arms]
    if len(arms) == 1:
        titles = [panel.title]
    return [_plot(panel, context, [arm], title) for arm, title in zip(arms, titles, strict=True)]


def _histories(panel: Curves, context: Context, arm: str) -> list[History]:
    """The rows of an arm, a history for each seed; or the one that results.json has of it."""
    if panel.results is None:
        return context.run.histories_of(arm)
    value = context.result(panel.results)
    entry = value.get(arm) if isinstance(value, Mapping) else None
    if entry is None:
        return []
    lengths = {len(column) for column in entry.values()}
    if "steps" not in entry or len(lengths) != 1:
        raise PanelError(
            f"results: {panel.results}.{arm} needs steps and columns of the same length"
        )
    columns = {key: column for key, column in entry.items() if key != "steps"}
    return [
        History(
            {"step": step, **{key: column[place] for key, column in columns.items()}}
            for place, step in enumerate(entry["steps"])
        )
    ]


def _plot(panel: Curves, context: Context, arms: list[str], title: str) -> Drawing:
    found = {
        (arm, column): [one for one in _histories(panel, context, arm) if column in one]
        for arm in arms
        for column in panel.columns
    }
    axis = StepAxis(one.steps for arm in arms for one in _histories(panel, context, arm))
    spans = _spans(panel, context, arms)
    columns = [history[name] for (_, name), those in found.items() for history in those]
    frame = layout(axis.layout(), _y_axis(panel, columns), lanes=len(spans))
    figure: Figure = {"data": [], "layout": frame}
    frame["annotations"] += axis.zero_label()
    for (arm, column), histories in found.items():
        pen = _pen(panel, context, arm, column)
        if panel.band != "none":
            ends = range_ends if panel.band == "range" else deviation_ends
            positive = panel.y_scale == "log"
            opacity = shade(0.16, len(found))
            figure["data"] += area(ends(histories, column), axis, pen, opacity, positive=positive)
        figure["data"] += lines(histories, column, axis, pen)
    draw_spans(figure, spans, axis)
    _draw_reference(panel, figure)
    return Drawing(
        title=title,
        caption=panel.caption,
        figure=figure,
        keys=_keys(panel, context, arms),
        styles=_styles(panel),
        alt=_alt(panel, context, arms, title),
        wide=panel.wide,
    )


def _pen(panel: Curves, context: Context, arm: str, column: str) -> Pen:
    label, place = panel.columns[column], list(panel.columns).index(column)
    shown = ".1%" if panel.percent else ".4~g"
    if panel.color_by == "column":
        color = layer_color(place, len(panel.columns))
        return Pen(label, color, "solid", marker(place), column, shown)
    name = f"{context.run.arm_title(arm)}, {label}"
    own = context.place(arm)
    # The dash tells columns apart where there are several, else the arms.
    line = dash(place if len(panel.columns) > 1 else own)
    return Pen(name, context.color(arm), line, marker(own), arm, shown)


def _y_axis(panel: Curves, columns: list[NDArray[np.float64]]) -> dict[str, Any]:
    axis: dict[str, Any] = {"type": panel.y_scale, "automargin": True}
    if panel.y_title:
        axis["title"] = axis_title(panel.y_title)
    if panel.y_range is not None:
        ends = panel.y_range
        axis["range"] = [math.log10(e) for e in ends] if panel.y_scale == "log" else [*ends]
    if panel.percent:
        axis["tickformat"] = ".0%"
    elif panel.y_scale == "log":
        axis |= log_ticks(value for values in columns for value in values)
    return axis


def _keys(panel: Curves, context: Context, arms: list[str]) -> tuple[Key, ...]:
    if panel.color_by == "arm":
        several = len(panel.columns) > 1
        return tuple(
            Key(
                context.run.arm_title(arm),
                context.color(arm),
                arm,
                marker(context.place(arm)),
                "solid" if several else dash(context.place(arm)),
            )
            for arm in arms
        )
    return tuple(
        Key(label, layer_color(place, len(panel.columns)), column, marker(place))
        for place, (column, label) in enumerate(panel.columns.items())
        if any(column in one for arm in arms for one in _histories(panel, context, arm))
    )


def _styles(panel: Curves) -> tuple[tuple[str, str], ...]:
    styles: list[tuple[str, str]] = []
    if panel.color_by == "arm" and len(panel.columns) > 1:
        styles = [(label, dash(place)) for place, label in enumerate(panel.columns.values())]
    if panel.band == "range":
        styles += [("range over the probe points", "band")]
    if panel.band == "deviation":
        styles += [("mean plus and minus a standard deviation", "band")]
    return tuple(styles)


def _spans(panel: Curves, context: Context, arms: list[str]) -> list[Span]:
    if panel.spans == "none":
        return []
    if panel.spans == "delay":
        return delay_spans(context, arms)
    if panel.spans == "onset":
        return onset_spans(context, arms)
    if isinstance(panel.spans, ResultSpans):
        return result_spans(context, arms, panel.spans.results, panel.spans.label)
    return [Span(s.start, s.end, s.label, "@muted", "") for s in panel.spans]


def _draw_reference(panel: Curves, figure: Figure) -> None:
    if panel.reference is None:
        return
    line = {"color": "@muted", "dash": "dash", "width": 1}
    shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "line": line}
    figure["layout"]["shapes"].append({**shape, "y0": panel.reference, "y1": panel.reference})
    if panel.reference_label:
        place = math.log10(panel.reference) if panel.y_scale == "log" else panel.reference
        figure["layout"]["annotations"].append(
            {
                "text": plain(panel.reference_label),
                "xref": "paper",
                "x": 0.01,
                "xanchor": "left",
                "y": place,
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"color": "@muted", "size": 12},
            }
        )


def _alt(panel: Curves, context: Context, arms: list[str], title: str) -> str:
    parts = []
    for arm in arms:
        history = _histories(panel, context, arm)[0]
        column = next((name for name in panel.columns if name in history), None)
        if column is None:
            continue
        steps, values = recorded(history, column)
        first, last = (metric_value(column, float(values[end])) for end in (0, -1))
        parts.append(
            f"{context.run.arm_title(arm)}: {panel.columns[column]} from {first} to {last} "
            f"at step {count(int(steps[-1]))}"
        )
    return f"{title}. {'; '.join(parts)}."


def recorded(history: History, column: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and values of the rows that have a column; a measure is not taken at every row.

    A value that was recorded as missing stays, as NaN, so that its gap is seen.
    """
    has = np.array([column in row for row in history.rows], dtype=bool)
    return history.steps[has], history[column][has]


def lines(histories: list[History], column: str, axis: StepAxis, pen: Pen) -> list[Trace]:
    """The line of one seed; or the thin lines of several, and their median over them."""
    series = [recorded(history, column) for history in histories]
    if not series:
        return []
    if len(series) == 1:
        return [_line(*series[0], axis, pen, 2.2, pen.name)]
    thin = replace(pen, color=pen.faint(0.4), marker="")
    traces = [_line(*one, axis, thin, 1, pen.name) for one in series]
    steps, columns = _common(series)
    if len(steps):
        middle = np.median(columns, axis=0)
        traces.append(_line(steps, middle, axis, pen, 2.4, f"{pen.name}, median"))
    return traces


def range_ends(histories: list[History], column: str) -> Ends | None:
    """Steps, bottom and top of a band from NAME_min to NAME_max, of several seeds the widest."""
    low, high = f"{column}_min", f"{column}_max"
    histories = [history for history in histories if low in history and high in history]
    if not histories:
        return None
    steps, bottoms = _common([recorded(history, low) for history in histories])
    _, tops = _common([recorded(history, high) for history in histories])
    return steps, np.min(bottoms, axis=0), np.max(tops, axis=0)


def deviation_ends(histories: list[History], column: str) -> Ends | None:
    """The same a standard deviation below and above the mean.

    It is the column NAME_deviation, or where there is none the deviation among seeds.
    """
    own = f"{column}_deviation"
    if not histories:
        return None
    steps, columns = _common([recorded(history, column) for history in histories])
    if len(histories) == 1 and own in histories[0]:
        middle, half = columns[0], recorded(histories[0], own)[1]
    elif len(histories) > 1:
        middle, half = columns.mean(axis=0), columns.std(axis=0, ddof=1)
    else:
        return None
    return steps, middle - half, middle + half


def area(
    ends: Ends | None, axis: StepAxis, pen: Pen, opacity: float, *, positive: bool
) -> list[Trace]:
    """A band; ``positive`` on log axes. Nothing where there is none to draw."""
    if ends is None:
        return []
    steps, bottom, top = ends
    whole = np.isfinite(bottom) & np.isfinite(top)
    if positive:
        whole &= bottom > 0
    known: list[int] = steps[whole].tolist()
    x = axis.places(known)
    return [
        {
            "type": "scatter",
            "mode": "none",
            "name": plain(pen.name),
            "meta": pen.target,
            "x": [*x, *reversed(x)],
            "customdata": [count(step) for step in [*known, *reversed(known)]],
            "y": numbers([*top[whole], *reversed(bottom[whole])]),
            "fill": "toself",
            "fillcolor": pen.faint(opacity),
            "hoverinfo": "skip",
        }
    ]


def _line(
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    axis: StepAxis,
    pen: Pen,
    width: float,
    name: str,
) -> Trace:
    few = len(values) < _FEW
    marks = {"size": 7, "color": pen.color, "symbol": pen.marker or "circle"}
    if not few:
        marks["maxdisplayed"] = MAX_MARKERS
    return {
        "type": "scatter",
        "mode": "lines+markers" if few or pen.marker else "lines",
        "name": plain(name),
        "meta": pen.target,
        "x": axis.places(steps.tolist()),
        "y": numbers(values),
        "customdata": [count(step) for step in steps.tolist()],
        "line": {"color": pen.color, "dash": pen.dash, "width": width},
        "marker": marks,
        "hovertemplate": "%{fullData.name}<br>step %{customdata}: "
        f"%{{y:{pen.value_format}}}<extra></extra>",
    }


def _common(
    series: list[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The steps that every seed has, so that a median never changes whom it is taken over.

    With them the values (seeds, steps) there.
    """
    steps = series[0][0]
    for others, _ in series[1:]:
        steps = np.intersect1d(steps, others)
    return steps, np.stack([values[np.searchsorted(own, steps)] for own, values in series])
