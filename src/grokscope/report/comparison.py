"""Several runs side by side: a table, a row for each arm, and the same curve of all in one plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grokscope.findings.statistics import Interval, SeedValues
from grokscope.findings.summary import END, START, ArmSummary, RunSummary, Times, run_summary
from grokscope.report.facts import arm_settings, differing, flat_settings
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
from grokscope.report.wording import (
    NOTHING,
    count,
    metric_name,
    range_text,
    ratio_text,
    seconds_text,
    spread_text,
    steps_text,
)
from grokscope.runs import Run, open_runs

FINAL = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")


def comparison_data(runs: Sequence[Run | Path]) -> list[dict[str, Any]]:
    """An entry for each arm of each run, ready for ``json.dumps``.

    An entry has ``run, path, title, arm, arm_title, preset, state, seeds, settings`` (only those
    that differ between the entries), ``trained`` (how long), ``milestones`` (for each the time to
    it), ``delay``, ``speed_up`` against the run's baseline with its p-values, and ``final`` (the
    last value of each metric). Times and ratios are given in ``steps`` and in ``seconds``.

    A value over seeds has ``median`` and for each seed one of ``values``, null where it is not
    known exactly; ``median_bounds`` and ``bounds`` are the least and the most that they can be,
    null for no bound. ``median_interval`` and ``mean_interval`` are 95 % bootstrap intervals.

    Args:
        runs: run directories.

    Raises:
        RunError: if there is none, or one of them cannot be read.
    """
    return compared(open_runs(runs, lenient=True))


def compared(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What ``comparison_data`` gives, of runs that are open already."""
    arms = [(run, arm) for run in runs for arm in run_summary(run).arms]
    settings = [_settings(run, arm.arm) for run, arm in arms]
    apart = differing(settings)
    return [
        {**_entry(run, arm), "settings": {name: own.get(name) for name in apart}}
        for (run, arm), own in zip(arms, settings, strict=True)
    ]


def summary_table(summary: RunSummary) -> list[list[str]]:
    """The arms of one run: a head and a row for each arm, a cell with a line for each figure."""
    names = list(summary.milestones)
    delayed = {START, END} <= set(names)
    several = END in names and len(summary.arms) > 1
    head = [
        "",
        *names,
        *(["delay"] if delayed else []),
        *(["speedup"] if several else []),
        "final test accuracy",
    ]
    rows = [
        [
            arm.title if arm.state == "finished" else f"{arm.title}\n({arm.state})",
            *(times_text(arm.milestones.get(name)) for name in names),
            *([times_text(arm.delay, ">")] if delayed else []),
            *([speed_up_text(arm)] if several else []),
            spread_text("test_accuracy", arm.final.get("test_accuracy")),
        ]
        for arm in summary.arms
    ]
    return [head, *rows]


def comparison_columns(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A column for each arm of each run: labels and texts, the same labels in each."""
    arms = [(run, arm) for run in runs for arm in run_summary(run).arms]
    settings = [_settings(run, arm.arm) for run, arm in arms]
    apart = differing(settings)
    columns = [
        {
            "run": run.name,
            "condition": arm.title,
            "preset": str(run.spec.get("preset") or NOTHING),
            "state": arm.state,
            "seeds": ", ".join(map(str, arm.seeds)) or NOTHING,
            **{name: own.get(name, NOTHING) for name in apart},
            **{name: times_text(times) for name, times in arm.milestones.items()},
            "delay": times_text(arm.delay, ">"),
            "speedup": speed_up_text(arm),
            **{
                metric_name(name): spread_text(name, arm.final[name])
                for name in FINAL
                if name in arm.final
            },
        }
        for (run, arm), own in zip(arms, settings, strict=True)
    ]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    return [{label: column.get(label, NOTHING) for label in labels} for column in columns]


def times_text(times: Times | None, missing: str = "not in") -> str:
    """Steps, their range over seeds and seconds to a milestone, a line each."""
    if times is None:
        return NOTHING
    steps = times["steps"]
    lines = [steps_text(steps, missing), range_text(steps), seconds_text(times["seconds"])]
    return "\n".join(line for line in lines if line)


def speed_up_text(arm: ArmSummary) -> str:
    """Ratio of the baseline to the arm, in steps and in time, a line each."""
    words = {"steps": "steps", "seconds": "time"}
    lines = [ratio_text(of.median, words[unit]) for unit, of in arm.speed_up.items()]
    return "\n".join(lines) or NOTHING


def _settings(run: Run, arm: str) -> dict[str, str]:
    """What defines an arm, and what its run calls a milestone: times to others do not compare."""
    milestones = flat_settings(run.spec.get("milestones") or {}, "milestones.")
    return {**arm_settings(run, arm), **milestones}


def _entry(run: Run, arm: ArmSummary) -> dict[str, Any]:
    return {
        "run": run.name,
        "path": str(run.path),
        "title": run.title,
        "arm": arm.arm,
        "arm_title": arm.title,
        "preset": run.spec.get("preset"),
        "state": arm.state,
        "seeds": arm.seeds,
        "trained": _data(arm.trained),
        "milestones": {name: _data(times) for name, times in arm.milestones.items()},
        "delay": None if arm.delay is None else _data(arm.delay),
        "speed_up": {
            unit: {
                **_value_data(of.ratio),
                "welch_p": of.welch_p,
                "wilcoxon_p": _ends(of.wilcoxon_p),
            }
            for unit, of in arm.against.items()
        },
        "final": _data({name: values for name, values in arm.final.items() if name in FINAL}),
    }


def _data(values: Mapping[Any, SeedValues]) -> dict[str, Any]:
    return {name: _value_data(value) for name, value in values.items()}


def _value_data(values: SeedValues) -> dict[str, Any]:
    return {
        "median": _finite(values.median.value),
        "median_bounds": _ends(values.median),
        "median_interval": _ends(values.interval()),
        "mean_bounds": _ends(values.mean),
        "mean_interval": _ends(values.interval("mean")),
        "std": _finite(values.std),
        "num_known": values.num_known,
        "values": [_finite(value) for value in values.values],
        "bounds": [_ends(interval) for interval in values.intervals],
    }


def _ends(bounds: Interval | None) -> list[float | None] | None:
    return None if bounds is None else [_finite(end) for end in bounds]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


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
