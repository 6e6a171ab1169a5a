"""The same curve of several runs in one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grokscope.report.panels import Drawing, Key
from grokscope.report.panels.curves import recorded
from grokscope.report.plotting import (
    MAX_MARKERS,
    Figure,
    StepAxis,
    arm_color,
    dash,
    layout,
    marker,
    numbers,
    plain,
)
from grokscope.report.wording import count, metric_name
from grokscope.runs import Run

_FEW = 5  # no more dashes than these can be told apart


def overlay(
    runs: Sequence[Run], colors: Mapping[str, int], column: str = "test_accuracy"
) -> list[Drawing]:
    """A column of all runs, an arm by its color, and a run by its dash where there are few.

    The table of runs says which of the lines are shown. Nothing where fewer than two have the
    column.
    """
    shown = [run for run in runs if any(column in history for history in run.histories.values())]
    if len(shown) < 2:
        return []
    few = len(shown) <= _FEW
    places = {id(run): place for place, run in enumerate(runs)}
    axis = StepAxis(h.steps for run in shown for h in run.histories.values())
    y_axis = {"tickformat": ".0%", "range": [0, 1.02], "automargin": True}
    figure: Figure = {"data": [], "layout": layout(axis.layout(), y_axis)}
    figure["layout"]["annotations"] += axis.zero_label()
    for place, run in enumerate(shown):
        for (arm, seed), history in run.histories.items():
            if column not in history:
                continue
            steps, values = recorded(history, column)
            words = [run.name, run.arm_title(arm)]
            if len(run.seeds(arm)) > 1:
                words.append(f"seed {seed}")
            figure["data"].append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": plain(", ".join(words)),
                    "meta": arm,
                    "legendgroup": f"{places[id(run)]}/{arm}",
                    "x": axis.places(steps.tolist()),
                    "y": numbers(values),
                    "customdata": [count(step) for step in steps.tolist()],
                    "line": {
                        "color": arm_color(colors[arm]),
                        "dash": dash(place if few else 0),
                        "width": 2 if few and len(run.seeds(arm)) == 1 else 1,
                    },
                    "marker": {
                        "size": 7,
                        "color": arm_color(colors[arm]),
                        "symbol": marker(colors[arm]),
                        "maxdisplayed": MAX_MARKERS,
                    },
                    "hovertemplate": "%{fullData.name}<br>step %{customdata}: %{y:.1%}"
                    "<extra></extra>",
                }
            )
    titles = {arm: s.arm_title(arm) for s in shown for arm, _ in s.histories}
    name = metric_name(column)
    return [
        Drawing(
            title=f"{name.capitalize()} of all runs",
            caption="Lines further left generalized in fewer steps.",
            figure=figure,
            keys=tuple(
                Key(title, arm_color(colors[arm]), arm, marker(colors[arm]))
                for arm, title in titles.items()
            ),
            styles=tuple((s.name, dash(place)) for place, s in enumerate(shown)),
            alt=f"{name.capitalize()} over training steps of {len(shown)} runs; the table above "
            "has their values.",
            wide=True,
        )
    ]
