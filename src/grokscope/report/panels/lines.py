"""A column over steps as traces: one seed, several with their median, the range around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.report.plotting import StepAxis, numbers, plain
from grokscope.report.wording import count
from grokscope.runs import History

Trace = dict[str, Any]

_FEW = 12  # with fewer evaluations than this, each is marked by a dot


@dataclass(frozen=True)
class Pen:
    """How a column is drawn, and the ``target`` that hides it when its legend is pressed."""

    name: str
    colour: str
    dash: str
    target: str
    value_format: str = ".4~g"

    def faint(self, opacity: float) -> str:
        """A paler shade of the colour."""
        return f"{self.colour}/{opacity:g}"


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
        return [_line(*series[0], axis, pen, pen.colour, 2.2, pen.name)]
    traces = [_line(*one, axis, pen, pen.faint(0.4), 1, pen.name) for one in series]
    steps, columns = _common(series)
    if len(steps):
        middle = np.median(columns, axis=0)
        traces.append(_line(steps, middle, axis, pen, pen.colour, 2.4, f"{pen.name}, median"))
    return traces


Ends = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


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


def area(ends: Ends | None, axis: StepAxis, pen: Pen, *, positive: bool) -> list[Trace]:
    """A band; ``positive`` on log axes. Nothing where there is none to draw."""
    if ends is None:
        return []
    steps, bottom, top = ends
    whole = np.isfinite(bottom) & np.isfinite(top)
    if positive:
        whole &= bottom > 0
    x = axis.places(steps[whole].tolist())
    return [
        {
            "type": "scatter",
            "mode": "none",
            "name": plain(pen.name),
            "meta": pen.target,
            "x": [*x, *reversed(x)],
            "y": numbers([*top[whole], *reversed(bottom[whole])]),
            "fill": "toself",
            "fillcolor": pen.faint(0.16),
            "hoverinfo": "skip",
        }
    ]


def _line(
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    axis: StepAxis,
    pen: Pen,
    colour: str,
    width: float,
    name: str,
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(values) < _FEW else "lines",
        "name": plain(name),
        "meta": pen.target,
        "x": axis.places(steps.tolist()),
        "y": numbers(values),
        "customdata": [count(step) for step in steps.tolist()],
        "line": {"color": colour, "dash": pen.dash, "width": width},
        "marker": {"size": 5, "color": colour},
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
