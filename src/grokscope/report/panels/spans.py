"""Shaded intervals of training steps, each with a labeled bar above the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grokscope.findings import Onset, onset
from grokscope.findings.onset import over_seeds
from grokscope.findings.panels import PanelError
from grokscope.findings.summary import END, START
from grokscope.report.panels.drawing import Context
from grokscope.report.plotting import (
    MARKERS,
    NUM_ARM_COLORS,
    Figure,
    StepAxis,
    lane_place,
    marker,
    plain,
    shade,
)
from grokscope.report.wording import count

_ROOM = 0.4  # the share of the axis that a label takes on a phone


@dataclass(frozen=True)
class Span:
    """From one step to another; ``target`` names what hides it, ``marker`` stands by its bar."""

    start: float
    end: float
    label: str
    color: str
    target: str
    marker: str = ""


def delay_spans(context: Context, arms: list[str]) -> list[Span]:
    """For each arm that memorized, the steps from there until it generalized or was stopped.

    Where the spec does not say when an arm has generalized, the onset is found from the curves.
    """
    if END not in context.summary.milestones:
        return onset_spans(context, arms)
    spans = []
    for name in arms:
        arm = context.summary.arm(name)
        if arm.delay is None:
            continue
        start = arm.milestones[START]["steps"].median.low  # a delay has it exactly
        delay = arm.delay["steps"].median
        if delay.high == 0:
            continue
        if delay.is_bounded:
            length, words = delay.high, f"delay: {delay.text(count)} steps"
        else:
            length, words = delay.low, f"delay: over {count(delay.low)} steps"
        spans.append(_of_arm(context, name, start, start + length, words))
    return spans


def _of_arm(context: Context, arm: str, start: float, end: float, words: str) -> Span:
    """A span of an arm, with its marker where there are more arms than colors."""
    several = len(context.colors) > NUM_ARM_COLORS
    shape = marker(context.place(arm)) if several else ""
    return Span(start, end, words, context.color(arm), arm, shape)


def onsets(context: Context, arm: str) -> list[Onset]:
    """The onset of each seed of an arm; empty where accuracies were not recorded."""
    try:
        return [onset(history) for history in context.run.histories_of(arm) if len(history)]
    except ValueError:
        return []


def onset_spans(context: Context, arms: list[str]) -> list[Span]:
    """For each arm whose generalization was delayed, from its start to its end, or until now.

    Of several seeds the medians, where more than half of them were delayed; one that did not rise
    is later than any.
    """
    spans = []
    for arm in arms:
        found = onsets(context, arm)
        if 2 * sum(one.start is not None for one in found) <= len(found):
            continue
        start, end = (over_seeds(found, moment).median for moment in ("start", "end"))
        words = f"onset: from {count(start.low)}"
        if end.is_bounded:
            words = f"onset: {count(start.low)} to {count(end.high)}"
        last = end.high if end.is_bounded else max(one.last for one in found)
        spans.append(_of_arm(context, arm, start.low, last, words))
    return spans


def result_spans(context: Context, arms: list[str], name: str, label: str) -> list[Span]:
    """The spans that results.json has under a name, for those of the arms that have one."""
    if not context.run.results:  # computed after training, which may still go on
        return []
    value = context.result(name)
    if not isinstance(value, Mapping):
        raise PanelError(f"spans: {name} in results.json is no mapping from arms")
    spans = []
    for arm in arms:
        entry = value.get(arm)
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not {"start", "end"} <= set(entry):
            raise PanelError(f"spans: {name}.{arm} in results.json needs start and end")
        words = f"{context.run.arm_title(arm)}: {label}" if len(arms) > 1 else label
        spans.append(_of_arm(context, arm, entry["start"], entry["end"], words))
    return spans


def draw_spans(figure: Figure, spans: list[Span], axis: StepAxis) -> None:
    """Add the spans to a figure whose layout has a lane for each of them."""
    lanes = len(spans)
    for place, span in enumerate(spans):
        bottom, top = lane_place(lanes - 1 - place)
        ends: dict[str, Any] = {"type": "rect", "xref": "x", "yref": "paper", "name": span.target}
        ends |= {"x0": max(span.start, axis.zero), "x1": span.end}
        pale, strong = f"{span.color}/{shade(0.1, lanes)}", f"{span.color}/0.3"
        figure["layout"]["shapes"] += [
            {**ends, "y0": 0, "y1": 1, "fillcolor": pale, "line": {"width": 0}, "layer": "below"},
            {**ends, "y0": bottom, "y1": top, "fillcolor": strong, "line": {"width": 0}},
        ]
        label = _label(span, axis, (bottom + top) / 2)
        figure["layout"]["annotations"].append(label)
        if span.marker:
            figure["layout"]["shapes"].append(_marker(span, label))


def _label(span: Span, axis: StepAxis, height: float) -> dict[str, Any]:
    """The text of a bar, before it or behind it where there is room, else in it."""
    start, end = math.log10(max(span.start, axis.zero)), math.log10(max(span.end, axis.zero))
    first, last = math.log10(axis.first), math.log10(axis.last)
    if start - first >= _ROOM * (last - first):
        place, anchor = start, "right"
    elif last - end >= _ROOM * (last - first):
        place, anchor = end, "left"
    else:
        place, anchor = start, "left"
    return {
        "text": plain(span.label),
        "x": place,
        "xref": "x",
        "xanchor": anchor,
        "xshift": (-1 if anchor == "right" else 1) * (17 if span.marker else 3),
        "y": height,
        "yref": "paper",
        "yanchor": "middle",
        "showarrow": False,
        "font": {"color": "@ink", "size": 12},
        "name": span.target,
    }


def _marker(span: Span, label: dict[str, Any]) -> dict[str, Any]:
    """The arm's marker between a bar and its label, of the same size whatever the axes are."""
    shift = label["xshift"] / 2
    outline = "L".join(f"{x + shift:g},{y:g}" for x, y in MARKERS[span.marker])
    return {
        "type": "path",
        "path": f"M{outline}Z",
        "xref": "x",
        "yref": "paper",
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        "xanchor": 10 ** label["x"],
        "yanchor": label["y"],
        "fillcolor": span.color,
        "line": {"width": 0},
        "name": span.target,
    }
