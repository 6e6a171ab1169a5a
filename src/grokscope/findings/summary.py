"""When each arm of a run reached its milestones, and how it compares with the baseline.

All numbers that the report shows over seeds come from here, as ``SeedValues``: the tables, the
sentences, the JSON and the claims say the same of a seed that did not reach its target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from grokscope.findings.claims import Claim, Verdict, judge
from grokscope.findings.statistics import Interval, SeedValues, welch_p, wilcoxon_p
from grokscope.findings.target import UNITS, Target, Unit
from grokscope.runs.files import RunError
from grokscope.runs.history import History
from grokscope.runs.reader import Run

START, END = "memorized", "generalized"

Times = dict[Unit, SeedValues]


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline in the time to generalize.

    Attributes:
        ratio: baseline over arm, seed by seed, over the seeds that both have.
        welch_p: p-value that the mean is the same; None where the test has no answer.
        wilcoxon_p: p-value that the arms are alike seed by seed; None for a single seed.
    """

    ratio: SeedValues
    welch_p: float | None
    wilcoxon_p: Interval | None

    @property
    def is_informative(self) -> bool:
        """Whether the median ratio says which of the two takes longer.

        A baseline that stopped before the arm generalized does not, and neither does a target that
        was reached at the first evaluation.
        """
        low, high = self.ratio.median
        decided = low > 1 or high < 1 or self.ratio.median.is_exact
        return 0 < low < math.inf and decided


@dataclass(frozen=True)
class ArmSummary:
    """One arm: when it reached the milestones, how it ended, how it compares with the baseline.

    Attributes:
        arm: its name.
        title: its title.
        state: "finished", "diverged", "not started", or how the training was left.
        seeds: those that have rows; all values are in their order.
        trained: steps and seconds that each seed was trained; empty without rows.
        milestones: steps and seconds to each milestone whose metric was recorded.
        delay: from memorized to generalized; None unless every seed memorized.
        final: for each metric its last value, over the seeds that have it.
        against: in steps and seconds against the baseline; empty for the baseline itself.
    """

    arm: str
    title: str
    state: str
    seeds: list[int]
    trained: Times
    milestones: dict[str, Times]
    delay: Times | None
    final: dict[str, SeedValues]
    against: dict[Unit, Comparison] = field(default_factory=dict)

    @property
    def speed_up(self) -> Times:
        """Ratio of the baseline's time to generalize to this arm's, where that says something."""
        return {unit: of.ratio for unit, of in self.against.items() if of.is_informative}


@dataclass(frozen=True)
class RunSummary:
    """One run: its arms in the order of the spec, and the arm that the others are compared with.

    Attributes:
        name: the run's name.
        title: its title.
        state: how it stands.
        baseline: the arm named "baseline", or else the first; None where there is no arm.
        milestones: the targets that the spec names, by name.
        arms: a summary of each.
        told: what an analysis says that it found, ``finding`` in results.json.
        verdicts: what became of each claim.
        problems: what could not be read or judged, a sentence each.
    """

    name: str
    title: str
    state: str
    baseline: str | None
    milestones: dict[str, Target]
    arms: list[ArmSummary]
    told: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def arm(self, name: str) -> ArmSummary:
        """The summary of one arm."""
        return next(arm for arm in self.arms if arm.arm == name)


def run_summary(run: Run) -> RunSummary:
    """Steps and seconds to each milestone of a run, arm by arm.

    Raises:
        RunError: if the spec or the rows cannot be read.
    """
    milestones = milestones_of(run)
    arms = [_arm_summary(run, arm, milestones) for arm in run.arms]
    names = [arm.arm for arm in arms]
    baseline = "baseline" if "baseline" in names else next(iter(names), None)
    if baseline is not None:
        base = arms[names.index(baseline)]
        arms = [arm if arm is base else replace(arm, against=comparison(arm, base)) for arm in arms]
    judged, unjudged = _verdicts(run)
    return RunSummary(
        name=run.name,
        title=run.title,
        state=run.state,
        baseline=baseline,
        milestones=milestones,
        arms=arms,
        told=str(run.results.get("finding", "")),
        verdicts=judged,
        problems=[*run.problems, *unjudged],
    )


def milestones_of(run: Run) -> dict[str, Target]:
    """The targets that the spec of a run names, in its order."""
    found = run.spec.get("milestones") or {}
    return {
        str(name): Target(str(entry["metric"]), float(entry["target"]))
        for name, entry in found.items()
    }


def _arm_summary(run: Run, arm: str, milestones: dict[str, Target]) -> ArmSummary:
    histories = run.histories_of(arm)
    reached = {
        name: {unit: target.time_to(histories, unit) for unit in UNITS}
        for name, target in milestones.items()
        if any(target.metric in history for history in histories)
    }
    return ArmSummary(
        arm=arm,
        title=run.arm_title(arm),
        state=_state(run, arm),
        seeds=run.seeds(arm),
        trained=_trained(histories),
        milestones=reached,
        delay=_delay(reached),
        final=_final(histories),
    )


def _verdicts(run: Run) -> tuple[list[Verdict], list[str]]:
    """What became of the claims, and a sentence for each that could not be judged."""
    judged, unjudged = [], []
    for number, claim in enumerate(run.spec.get("claims") or (), 1):
        try:
            judged.append(judge(Claim.model_validate(claim), run))
        except (RunError, KeyError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            unjudged.append(f"claim {number} in {run.spec_file} could not be judged: {first}")
    return judged, unjudged


def _state(run: Run, arm: str) -> str:
    """How the arm stands: the run's own state where one of its trainings is not finished."""
    wanted = run.spec.get("seeds") or run.env.get("seeds") or run.seeds(arm)
    trials = [run.trial_status(arm, seed) for seed in wanted]
    if any(trial.get("stopped") == "diverged" for trial in trials):
        return "diverged"
    if trials and all(trial.get("state") == "finished" for trial in trials):
        return "finished"
    if not run.seeds(arm):
        return "not started"
    return run.state if run.state != "finished" else "unfinished"


def _trained(histories: Sequence[History]) -> Times:
    if not histories:
        return {}
    seconds = [
        float(history["train_seconds"][-1]) if "train_seconds" in history else math.nan
        for history in histories
    ]
    return {
        "steps": SeedValues.exact([float(history.steps[-1]) for history in histories]),
        "seconds": SeedValues.exact(seconds),
    }


def _delay(reached: dict[str, Times]) -> Times | None:
    """From memorized to generalized, never less than nothing; None if a seed never memorized."""
    if START not in reached or END not in reached:
        return None
    if reached[START]["steps"].num_known < len(reached[START]["steps"]):
        return None
    return {unit: _less(reached[END][unit], reached[START][unit]) for unit in UNITS}


def _less(end: SeedValues, start: SeedValues) -> SeedValues:
    """Seed by seed the end less the start, which is known, and at least 0."""
    pairs = list(zip(end.intervals, start.lows, strict=True))
    return SeedValues(
        tuple(_at_least_zero(late.low - early) for late, early in pairs),
        tuple(_at_least_zero(late.high - early) for late, early in pairs),
    )


def _at_least_zero(value: float) -> float:
    return value if math.isnan(value) else max(0.0, value)


def _final(histories: Sequence[History]) -> dict[str, SeedValues]:
    names = dict.fromkeys(name for history in histories for name in history.names)
    return {
        name: SeedValues.exact([_last(history, name) for history in histories if name in history])
        for name in names
    }


def _last(history: History, name: str) -> float:
    """The last value recorded of a column, which the last row need not have."""
    value = next(row[name] for row in reversed(history.rows) if name in row)
    return math.nan if value is None else float(value)


def comparison(ours: ArmSummary, theirs: ArmSummary) -> dict[Unit, Comparison]:
    """An arm against a baseline, which may be an arm of another run.

    Welch's test is over all seeds of both, the rest over those that they share.

    Returns:
        In steps and in seconds. It is empty where one did not record the milestone or they share
        no seed, and has no seconds where none were recorded.
    """
    shared = [seed for seed in ours.seeds if seed in theirs.seeds]
    if not shared or END not in ours.milestones or END not in theirs.milestones:
        return {}
    found: dict[Unit, Comparison] = {}
    for unit in UNITS:
        fast, slow = ours.milestones[END][unit], theirs.milestones[END][unit]
        if math.isnan(fast.mean.low) or math.isnan(slow.mean.low):
            continue
        paired, other = (
            values.at([arm.seeds.index(seed) for seed in shared])
            for values, arm in ((fast, ours), (slow, theirs))
        )
        found[unit] = Comparison(
            ratio=other.over(paired),
            welch_p=welch_p(fast, slow),
            wilcoxon_p=wilcoxon_p(paired, other) if len(shared) > 1 else None,
        )
    return found
