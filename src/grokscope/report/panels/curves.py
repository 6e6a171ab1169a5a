"""Columns of the metrics over training steps."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from grokscope.report.panels.base import Context, Drawing, Key, NothingToDraw, Panel
from grokscope.report.panels.lines import Pen, area, deviation_ends, lines, range_ends, recorded
from grokscope.report.panels.spans import (
    Span,
    delay_spans,
    draw_spans,
    onset_spans,
    result_histories,
    result_spans,
)
from grokscope.report.plotting import (
    Figure,
    StepAxis,
    axis_title,
    dash,
    layer_colour,
    layout,
    log_ticks,
    plain,
)
from grokscope.report.wording import count, metric_name, metric_value
from grokscope.runs import History


class FixedSpan(BaseModel):
    """A stretch of training to shade."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float
    end: float
    label: str = ""


class ResultSpans(BaseModel):
    """Stretches of training that the experiment computed.

    Attributes:
        results: dotted name in results.json of a mapping from arms to ``start`` and ``end``.
        label: what each is called, after the arm's title.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    results: str
    label: str = ""


class Curves(Panel):
    """Columns against logarithmic steps, a line for each arm and column.

    Attributes:
        columns: the columns, or a mapping from each to its label; the first is drawn solid.
        results: where the columns are instead of in the metrics: a dotted name in results.json of a
            mapping from arms to ``steps`` and the columns, lists of equal length.
        arms: the arms to show; all by default.
        colour_by: ``arm`` for one plot in the arms' colours; ``column`` for a plot for each arm,
            its columns in one perceptual scale, as for layers.
        band: ``range`` shades from NAME_min to NAME_max, the extremes over the probe points;
            ``deviation`` a standard deviation up and down: the column NAME_deviation, or where
            there is none, of several seeds the deviation among them.
        y_title: label of the vertical axis.
        y_scale: ``linear`` or ``log``.
        y_range: ends of the vertical axis.
        percent: whether values are fractions to show as per cent.
        spans: ``delay`` shades from memorised to generalised for each arm; ``onset`` from start
            to end of delayed generalisation, as ``grokscope.onset`` has them; a list of spans; or
            ``results``, a name in results.json of a mapping from arms to ``start`` and ``end``,
            with their ``label``.
        reference: a value to mark by a horizontal line, with ``reference_label``.
    """

    kind: Literal["curves"]
    columns: dict[str, str]
    results: str | None = None
    arms: list[str] | None = None
    colour_by: Literal["arm", "column"] = "arm"
    band: Literal["none", "range", "deviation"] = "none"
    y_title: str = ""
    y_scale: Literal["linear", "log"] = "linear"
    y_range: tuple[float, float] | None = None
    percent: bool = False
    spans: Literal["none", "delay", "onset"] | list[FixedSpan] | ResultSpans = "none"
    reference: float | None = None
    reference_label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _label_columns(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("columns"), list):
            names = {name: metric_name(str(name)) for name in data["columns"]}
            return {**data, "columns": names}
        return data

    @model_validator(mode="after")
    def _fits_a_log_axis(self) -> Curves:
        values = [*(self.y_range or ()), *([] if self.reference is None else [self.reference])]
        if self.y_scale == "log" and any(value <= 0 for value in values):
            raise ValueError("y_range and reference must be above 0 where y_scale is log")
        return self

    def draw(self, context: Context) -> list[Drawing]:
        """One plot, or one for each arm where columns have the colours."""
        arms = [
            arm
            for arm in context.arms(self.arms)
            if any(name in one for one in self._histories(context, arm) for name in self.columns)
        ]
        if not arms:
            raise NothingToDraw(f"this run has recorded no {' or '.join(self.columns)}")
        if self.colour_by == "arm":
            return [self._plot(context, arms, self.title)]
        titles = [f"{self.title}: {context.subject.arm_title(arm)}" for arm in arms]
        if len(arms) == 1:
            titles = [self.title]
        return [self._plot(context, [arm], title) for arm, title in zip(arms, titles, strict=True)]

    def _histories(self, context: Context, arm: str) -> list[History]:
        if self.results is not None:
            return result_histories(context, arm, self.results)
        return context.subject.of(arm)

    def _plot(self, context: Context, arms: list[str], title: str) -> Drawing:
        found = {
            (arm, column): [one for one in self._histories(context, arm) if column in one]
            for arm in arms
            for column in self.columns
        }
        axis = StepAxis(one.steps for arm in arms for one in self._histories(context, arm))
        spans = self._spans(context, arms)
        columns = [history[name] for (_, name), those in found.items() for history in those]
        frame = layout(axis.layout(), self._y_axis(columns), lanes=len(spans))
        figure: Figure = {"data": [], "layout": frame}
        frame["annotations"] += axis.zero_label()
        for (arm, column), histories in found.items():
            pen = self._pen(context, arm, column)
            if self.band != "none":
                ends = range_ends if self.band == "range" else deviation_ends
                positive = self.y_scale == "log"
                figure["data"] += area(ends(histories, column), axis, pen, positive=positive)
            figure["data"] += lines(histories, column, axis, pen)
        draw_spans(figure, spans, axis)
        self._draw_reference(figure)
        return Drawing(
            title=title,
            look_for=self.look_for,
            figure=figure,
            keys=self._keys(context, arms),
            styles=self._styles(),
            alt=self._alt(context, arms, title),
            wide=self.wide,
        )

    def _pen(self, context: Context, arm: str, column: str) -> Pen:
        label, place = self.columns[column], list(self.columns).index(column)
        shown = ".1%" if self.percent else ".4~g"
        if self.colour_by == "column":
            return Pen(label, layer_colour(place, len(self.columns)), "solid", column, shown)
        name = f"{context.subject.arm_title(arm)}, {label}"
        return Pen(name, context.colour(arm), dash(place), arm, shown)

    def _y_axis(self, columns: list[NDArray[np.float64]]) -> dict[str, Any]:
        axis: dict[str, Any] = {"type": self.y_scale, "automargin": True}
        if self.y_title:
            axis["title"] = axis_title(self.y_title)
        if self.y_range is not None:
            ends = self.y_range
            axis["range"] = [math.log10(e) for e in ends] if self.y_scale == "log" else [*ends]
        if self.percent:
            axis["tickformat"] = ".0%"
        elif self.y_scale == "log":
            axis |= log_ticks(value for values in columns for value in values)
        return axis

    def _keys(self, context: Context, arms: list[str]) -> tuple[Key, ...]:
        if self.colour_by == "arm":
            return tuple(
                Key(context.subject.arm_title(arm), context.colour(arm), arm) for arm in arms
            )
        return tuple(
            Key(label, layer_colour(place, len(self.columns)), column)
            for place, (column, label) in enumerate(self.columns.items())
            if any(column in one for arm in arms for one in self._histories(context, arm))
        )

    def _styles(self) -> tuple[tuple[str, str], ...]:
        styles: list[tuple[str, str]] = []
        if self.colour_by == "arm" and len(self.columns) > 1:
            styles = [(label, dash(place)) for place, label in enumerate(self.columns.values())]
        if self.band == "range":
            styles += [("mean", "solid"), ("range over the probe points", "band")]
        if self.band == "deviation":
            styles += [("mean plus and minus a standard deviation", "band")]
        return tuple(styles)

    def _spans(self, context: Context, arms: list[str]) -> list[Span]:
        if self.spans == "none":
            return []
        if self.spans == "delay":
            return delay_spans(context, arms)
        if self.spans == "onset":
            return onset_spans(context, arms)
        if isinstance(self.spans, ResultSpans):
            return result_spans(context, arms, self.spans.results, self.spans.label)
        return [Span(s.start, s.end, s.label, "@muted", "") for s in self.spans]

    def _draw_reference(self, figure: Figure) -> None:
        if self.reference is None:
            return
        line = {"color": "@muted", "dash": "dash", "width": 1}
        shape = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "line": line}
        figure["layout"]["shapes"].append({**shape, "y0": self.reference, "y1": self.reference})
        if self.reference_label:
            place = math.log10(self.reference) if self.y_scale == "log" else self.reference
            figure["layout"]["annotations"].append(
                {
                    "text": plain(self.reference_label),
                    "xref": "paper",
                    "x": 0.01,
                    "xanchor": "left",
                    "y": place,
                    "yanchor": "bottom",
                    "showarrow": False,
                    "font": {"color": "@muted", "size": 12},
                }
            )

    def _alt(self, context: Context, arms: list[str], title: str) -> str:
        parts = []
        for arm in arms:
            history = self._histories(context, arm)[0]
            column = next((name for name in self.columns if name in history), None)
            if column is None:
                continue
            steps, values = recorded(history, column)
            first, last = (metric_value(column, float(values[end])) for end in (0, -1))
            parts.append(
                f"{context.subject.arm_title(arm)}: {self.columns[column]} from {first} to {last} "
                f"at step {count(int(steps[-1]))}"
            )
        return f"{title}. {'; '.join(parts)}."
