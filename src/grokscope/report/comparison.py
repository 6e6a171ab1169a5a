"""Runs side by side, as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from grokscope.report.amount import Amount
from grokscope.report.seeds import seed_statistics
from grokscope.report.settings import arm_settings, differing
from grokscope.report.subject import Subject, open_subjects
from grokscope.report.summary import END, START, ArmSummary, Reach, RunSummary, run_summary
from grokscope.report.wording import (
    NOTHING,
    metric_name,
    range_text,
    ratio,
    seconds_text,
    spread_text,
    steps_text,
)
from grokscope.runs import Run

FINAL = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")


def comparison_data(runs: Sequence[Run | Path]) -> list[dict[str, Any]]:
    """An entry for each arm of each run, ready for ``json.dumps``.

    An entry has ``run, path, title, arm, arm_title, preset, state, seeds, steps_run, settings``
    (only those that differ between the entries), ``milestones`` (for each: steps and seconds with
    their median, the value for each seed, None where a seed never got there, and how far it was
    trained), ``delay`` (the same), ``speed_up`` against the run's baseline (median, values and
    whether it is only a lower bound), ``final`` (for each metric the median over seeds and the
    values) and ``statistics`` (for each figure what the seeds say of it: bounds, None where there
    is none, of median and mean with their bootstrap intervals, standard deviation, ratios to the
    baseline and p-values).

    Args:
        runs: run directories.

    Raises:
        RunError: there is none, or one of them cannot be read.
    """
    return compared(open_subjects(runs))


def compared(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """What ``comparison_data`` gives, of runs that are open already."""
    entries, settings = [], []
    for subject in subjects:
        summary = run_summary(subject)
        statistics = seed_statistics(summary, least=1)
        for arm in summary.arms:
            over_seeds = [entry.data() for entry in statistics if entry.arm == arm.arm]
            entries.append({**_entry(subject, arm), "statistics": over_seeds})
            settings.append(arm_settings(subject, arm.arm))
    apart = differing(settings)
    for entry, own in zip(entries, settings, strict=True):
        entry["settings"] = {name: own.get(name) for name in apart}
    return entries


def summary_table(summary: RunSummary) -> list[list[str]]:
    """The arms of one run: a head and a row for each arm, a cell with a line for each figure."""
    names = [milestone.name for milestone in summary.milestones]
    delayed = {START, END} <= set(names)
    several = END in names and len(summary.arms) > 1
    head = [
        "",
        *names,
        *(["delay"] if delayed else []),
        *(["speed-up"] if several else []),
        "final test accuracy",
    ]
    rows = [
        [
            arm.title if arm.state == "finished" else f"{arm.title}\n({arm.state})",
            *(reach_text(arm.milestones.get(name)) for name in names),
            *([reach_text(arm.delay, ">")] if delayed else []),
            *([speed_up_text(arm)] if several else []),
            spread_text("test_accuracy", arm.final.get("test_accuracy", [])),
        ]
        for arm in summary.arms
    ]
    return [head, *rows]


def comparison_columns(subjects: Sequence[Subject]) -> list[dict[str, str]]:
    """A column for each arm of each run: labels and texts, the same labels in each."""
    arms = [(subject, arm) for subject in subjects for arm in run_summary(subject).arms]
    settings = [arm_settings(subject, arm.arm) for subject, arm in arms]
    apart = differing(settings)
    columns = [
        {
            "run": subject.name,
            "arm": arm.title,
            "preset": str(subject.spec.get("preset") or NOTHING),
            "state": arm.state,
            "seeds": ", ".join(map(str, arm.seeds)) or NOTHING,
            **{name: own.get(name, NOTHING) for name in apart},
            **{name: reach_text(reach) for name, reach in arm.milestones.items()},
            "delay": reach_text(arm.delay, ">"),
            "speed-up": speed_up_text(arm),
            **{
                metric_name(name): spread_text(name, arm.final[name])
                for name in FINAL
                if name in arm.final
            },
        }
        for (subject, arm), own in zip(arms, settings, strict=True)
    ]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    return [{label: column.get(label, NOTHING) for label in labels} for column in columns]


def reach_text(reach: Reach | None, missing: str = "not in") -> str:
    """Steps, their range over seeds and seconds to a milestone, a line each."""
    if reach is None:
        return NOTHING
    lines = [steps_text(reach.steps, missing), range_text(reach.steps), seconds_text(reach.seconds)]
    return "\n".join(line for line in lines if line)


def speed_up_text(arm: ArmSummary) -> str:
    """How many times sooner than the baseline, in steps and in time, a line each."""
    lines = []
    for unit, word in (("steps", "steps"), ("seconds", "time")):
        found = arm.speed_up.get(unit)  # type: ignore[call-overload]
        if found is not None:
            sign = "> " if found.is_lower_bound else ""
            lines.append(f"{sign}{ratio(found.median)}× {word}")
    return "\n".join(lines) or NOTHING


def _entry(subject: Subject, arm: ArmSummary) -> dict[str, Any]:
    return {
        "run": subject.name,
        "path": str(subject.run.path),
        "title": subject.title,
        "arm": arm.arm,
        "arm_title": arm.title,
        "preset": subject.spec.get("preset"),
        "state": arm.state,
        "seeds": arm.seeds,
        "steps_run": None if arm.steps_run is None else arm.steps_run.median,
        "settings": {},
        "milestones": {
            name: {"steps": _amount(reach.steps), "seconds": _amount(reach.seconds)}
            for name, reach in arm.milestones.items()
        },
        "delay": None
        if arm.delay is None
        else {"steps": _amount(arm.delay.steps), "seconds": _amount(arm.delay.seconds)},
        "speed_up": {
            unit: {
                "median": found.median,
                "values": list(found.values),
                "is_lower_bound": found.is_lower_bound,
            }
            for unit, found in arm.speed_up.items()
        },
        "final": {
            name: {"median": _finite(median(values)), "values": [_finite(item) for item in values]}
            for name, values in arm.final.items()
            if name in FINAL
        },
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {
        "median": _finite(amount.median),
        "values": [_finite(value) for value in amount.values],
        "trained": [_finite(limit) for limit in amount.limits],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
