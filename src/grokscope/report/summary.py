"""When each arm memorised and generalised, and how much sooner than the first: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grokscope.findings.statistics import SeedValues
from grokscope.report.amount import Amount
from grokscope.report.subject import Milestone, Subject
from grokscope.runs import History

Unit = Literal["steps", "seconds"]

START, END = "memorised", "generalised"


@dataclass(frozen=True)
class Reach:
    """Steps and training seconds to one milestone."""

    steps: Amount
    seconds: Amount


@dataclass(frozen=True)
class Ratio:
    """How many times sooner than the baseline, over the seeds that both have."""

    sample: SeedValues

    @property
    def values(self) -> tuple[float, ...]:
        """The ratio for each seed, or the least that it can be."""
        return self.sample.lows

    @property
    def median(self) -> float:
        """Median over seeds, or the least that it can be."""
        return self.sample.median.low

    @property
    def is_lower_bound(self) -> bool:
        """Whether the median may be larger."""
        return not self.sample.median.is_exact


@dataclass(frozen=True)
class ArmSummary:
    """One arm: when it reached the milestones, how it ended, how it compares with the baseline.

    ``state`` is finished, not started, or how the training that is not finished was left.
    ``final`` has, for each metric, the last value of every seed.
    """

    arm: str
    title: str
    state: str
    seeds: list[int]
    steps_run: Amount | None
    milestones: dict[str, Reach]
    delay: Reach | None
    final: dict[str, list[float]]
    speed_up: dict[Unit, Ratio]


@dataclass(frozen=True)
class RunSummary:
    """One run: its arms in the order of the spec, and the arm that the others are held against.

    ``told`` is what an analysis says that it found: ``finding`` in results.json.
    """

    name: str
    title: str
    state: str
    baseline: str | None
    milestones: list[Milestone]
    arms: list[ArmSummary]
    told: str = ""

    def arm(self, name: str) -> ArmSummary:
        """The summary of one arm."""
        return next(arm for arm in self.arms if arm.arm == name)

    def milestone(self, name: str) -> Milestone | None:
        """A milestone by its name."""
        return next((item for item in self.milestones if item.name == name), None)


def run_summary(subject: Subject) -> RunSummary:
    """Steps and seconds to each milestone of a run, arm by arm.

    The baseline is the arm named ``baseline``, or else the first.
    """
    arms = subject.arms
    baseline = "baseline" if "baseline" in arms else next(iter(arms), None)
    return RunSummary(
        name=subject.name,
        title=subject.title,
        state=subject.state,
        baseline=baseline,
        milestones=subject.milestones,
        arms=[_arm_summary(subject, arm, baseline) for arm in arms],
        told=str(subject.results.get("finding", "")),
    )


def _arm_summary(subject: Subject, arm: str, baseline: str | None) -> ArmSummary:
    histories = [history for history in subject.of(arm) if len(history)]
    reached = {
        milestone.name: _reach(histories, milestone)
        for milestone in subject.milestones
        if any(milestone.metric in history for history in histories)
    }
    return ArmSummary(
        arm=arm,
        title=subject.arm_title(arm),
        state=_state(subject, arm),
        seeds=subject.seeds(arm),
        steps_run=_steps_run(histories),
        milestones=reached,
        delay=_delay(reached),
        final=_final(histories),
        speed_up={} if baseline in (None, arm) else _speed_up(subject, arm, str(baseline)),
    )


def _state(subject: Subject, arm: str) -> str:
    """How the arm stands: the run's own state where one of its trainings is not finished."""
    wanted = subject.spec.get("seeds") or subject.env.get("seeds") or subject.seeds(arm)
    trials = [subject.trial(arm, seed) for seed in wanted]
    if any(trial.get("stopped") == "diverged" for trial in trials):
        return "diverged"
    if trials and all(trial.get("state") == "finished" for trial in trials):
        return "finished"
    if not subject.seeds(arm):
        return "not started"
    return subject.state if subject.state != "finished" else "unfinished"


def _steps_run(histories: list[History]) -> Amount | None:
    last = tuple(float(history.steps[-1]) for history in histories)
    return Amount(last, last) if last else None


def _reach(histories: list[History], milestone: Milestone) -> Reach:
    steps = [history.first_step(milestone.metric, milestone.target) for history in histories]
    return Reach(
        steps=Amount(
            tuple(None if step is None else float(step) for step in steps),
            tuple(float(history.steps[-1]) for history in histories),
        ),
        seconds=Amount(
            tuple(
                None if step is None else seconds_at(history, step)
                for history, step in zip(histories, steps, strict=True)
            ),
            tuple(seconds_at(history, int(history.steps[-1])) for history in histories),
        ),
    )


def seconds_at(history: History, step: int) -> float:
    """Training seconds at a recorded step; NaN where no time was recorded."""
    if "train_seconds" not in history:
        return math.nan
    return float(history["train_seconds"][np.argmax(history.steps == step)])


def _delay(reached: dict[str, Reach]) -> Reach | None:
    """From memorised to generalised, never less than nothing; None if a seed never memorised."""
    if START not in reached or END not in reached:
        return None
    start, end = reached[START], reached[END]
    if start.steps.reached < len(start.steps.values):
        return None
    return Reach(_less(end.steps, start.steps), _less(end.seconds, start.seconds))


def _less(end: Amount, start: Amount) -> Amount:
    return Amount(
        tuple(
            None if late is None or early is None else max(0.0, late - early)
            for late, early in zip(end.values, start.values, strict=True)
        ),
        tuple(
            max(0.0, limit - (early or 0.0))
            for limit, early in zip(end.limits, start.values, strict=True)
        ),
    )


def _final(histories: list[History]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for history in histories for name in history.names)
    return {
        name: [_last(history, name) for history in histories if name in history] for name in names
    }


def _last(history: History, name: str) -> float:
    """The last value recorded of a column, which the last row need not have."""
    value = next(row[name] for row in reversed(history.rows) if name in row)
    return math.nan if value is None else float(value)


def _speed_up(subject: Subject, arm: str, baseline: str) -> dict[Unit, Ratio]:
    """How many times sooner the arm generalised, seed by seed.

    A seed that never generalised bounds its ratio, and the median only where it can change it. A
    median that is a lower bound is told only if it says something: a baseline stopped before the
    arm generalised says nothing.
    """
    milestone = next((item for item in subject.milestones if item.name == END), None)
    seeds = [seed for seed in subject.seeds(arm) if seed in subject.seeds(baseline)]
    if milestone is None or not seeds:
        return {}
    ours, theirs = (
        _reach([subject.histories[name, seed] for seed in seeds], milestone)
        for name in (arm, baseline)
    )
    found: dict[Unit, Ratio] = {}
    units: tuple[Unit, ...] = ("steps", "seconds")
    for unit in units:
        fast, slow = (getattr(reach, unit).sample for reach in (ours, theirs))
        result = Ratio(slow.over(fast))
        if 0 < result.median < math.inf and (result.median > 1 or not result.is_lower_bound):
            found[unit] = result
    return found
