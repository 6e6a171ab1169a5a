"""Claims as data: a value that a run has for each seed, and the bound that it should keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grokscope.findings.onset import Onset, has_accuracies, onset, value_at
from grokscope.findings.sections import Finite, Strict
from grokscope.findings.statistics import SeedValues
from grokscope.findings.target import TimeSection, Unit
from grokscope.runs.history import History
from grokscope.runs.reader import Run
from grokscope.shown import shown

Moment = Literal[
    "first", "last", "max", "min", "memorized", "onset.start", "onset.middle", "onset.end"
]


class _OfArm(Strict):
    kind: str
    arm: str


class StepsTo(TimeSection, _OfArm):
    """Steps until a metric reaches a target; a seed that did not reach it is right-censored."""

    kind: Literal["steps_to"]
    unit: Unit = "steps"

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None without rows."""
        histories = run.histories_of(self.arm)
        return self.time_to(histories, self.unit) if histories else None


class SpeedUp(TimeSection, _OfArm):
    """Speedup of the time to a target over the baseline: baseline over arm, seed by seed."""

    kind: Literal["speed_up"]
    baseline: str = "baseline"
    unit: Unit = "steps"

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None where the arms share no seed."""
        seeds = _shared_seeds(run, self.arm, self.baseline)
        if not seeds:
            return None
        ours, theirs = (
            self.time_to([run.history(arm, seed) for seed in seeds], self.unit)
            for arm in (self.arm, self.baseline)
        )
        return theirs.over(ours)


class Value(_OfArm):
    """A metric of an arm at a moment of training, or its extreme over the run.

    The moments of an onset are those of ``grokscope.onset``; between evaluations the metric is
    interpolated in the logarithm of steps.
    """

    kind: Literal["value"]
    metric: str
    at: Moment = "last"

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None without the metric, or short of the moment."""
        return _values_at(run, run.seeds(self.arm), self.arm, self.metric, self.at)


class Difference(_OfArm):
    """What a metric is in one arm less what it is in another, seed by seed."""

    kind: Literal["difference"]
    baseline: str = "baseline"
    metric: str
    at: Moment = "last"

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed that both arms have; None where an arm lacks the metric."""
        seeds = _shared_seeds(run, self.arm, self.baseline)
        ours, theirs = (
            _values_at(run, seeds, arm, self.metric, self.at) for arm in (self.arm, self.baseline)
        )
        if ours is None or theirs is None:
            return None
        return SeedValues.exact([a - b for a, b in zip(ours.lows, theirs.lows, strict=True)])


class Change(_OfArm):
    """A metric at one moment over the same metric at another: 1 is no change."""

    kind: Literal["change"]
    metric: str
    at: Moment
    over: Moment

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None without the metric or one of the moments."""
        seeds = run.seeds(self.arm)
        above, below = (
            _values_at(run, seeds, self.arm, self.metric, at) for at in (self.at, self.over)
        )
        if above is None or below is None or 0.0 in below.lows:
            return None
        return above.over(below)


class Delay(_OfArm):
    """How many times as many steps half of the rise of test accuracy takes as memorizing does.

    1 stands for no delay; where it never rose, the steps up to its last evaluation are a bound.
    ``grokscope.onset`` tells them apart.
    """

    kind: Literal["delay"]

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None where one is not known to have memorized."""
        found = [_onset(run.history(self.arm, seed)) for seed in run.seeds(self.arm)]
        known = [each for each in found if each is not None and each.memorized is not None]
        if not known or len(known) < len(found):
            return None
        # 1 is the least there is, also where test accuracy was last evaluated before memorizing
        limits = [max(1.0, each.last / max(each.memorized or 1.0, 1.0)) for each in known]
        return SeedValues.censored([each.delay for each in known], limits)


class Result(Strict):
    """A value in results.json, found by its dotted name; a list counts as a value for each."""

    kind: Literal["result"]
    name: str

    def seed_values(self, run: Run) -> SeedValues | None:
        """The value for each seed of ``run``; None where the experiment has not computed it."""
        values: list[float] = []
        for results in run.results_of_seeds:
            value: Any = results
            for part in self.name.split("."):
                if not isinstance(value, dict) or part not in value:
                    return None
                value = value[part]
            values += map(float, value if isinstance(value, list) else [value])
        return SeedValues.exact(values) if values else None


Quantity = Annotated[
    StepsTo | SpeedUp | Value | Difference | Change | Delay | Result, Field(discriminator="kind")
]


class Claim(Strict):
    """A statement about a run that can turn out false.

    ``says`` is the statement in words, ``source`` where it comes from, ``quantity`` the value
    and ``at_least``/``at_most`` its bounds. With several seeds the median is judged.
    """

    says: str
    source: str = ""
    quantity: Quantity
    at_least: Finite | None = None
    at_most: Finite | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Claim:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a claim needs at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least {self.at_least:g} is above at_most {self.at_most:g}: no value is both"
            )
        return self


@shown()
@dataclass(frozen=True, repr=False)
class Verdict:
    """A claim with what the run says of it: "held", "not held" or "open"."""

    claim: Claim
    state: Literal["held", "not held", "open"]
    measured: SeedValues | None

    def _shown(self) -> dict[str, Any]:
        return {"claim": self.claim.says, "state": self.state, "measured": self.measured}


def judge(claim: Claim, run: Run) -> Verdict:
    """Hold a claim against a run; it stays open where the run has no value to judge it by."""
    return settle(claim, claim.quantity.seed_values(run))


def settle(claim: Claim, values: SeedValues | None) -> Verdict:
    """The verdict on a claim whose value for each seed is known; open without one."""
    if values is None or math.isnan(values.median.low):
        return Verdict(claim, "open", values)
    least = -math.inf if claim.at_least is None else claim.at_least
    most = math.inf if claim.at_most is None else claim.at_most
    low, high = values.median
    # Where the median is only bounded, claims are settled that hold or fail for all it can be.
    if low >= least and high <= most:
        return Verdict(claim, "held", values)
    return Verdict(claim, "not held" if high < least or low > most else "open", values)


def verdicts(run: Run) -> Sequence[Verdict]:
    """The verdict on each claim that the run's spec makes."""
    return [judge(Claim.model_validate(claim), run) for claim in run.spec.get("claims", [])]


def _shared_seeds(run: Run, arm: str, baseline: str) -> list[int]:
    """The seeds that both arms have: what is paired is paired by seed."""
    shared = run.seeds(baseline)
    return [seed for seed in run.seeds(arm) if seed in shared]


def _values_at(
    run: Run, seeds: Sequence[int], arm: str, metric: str, at: Moment
) -> SeedValues | None:
    """A metric of an arm at a moment for each seed; None where a seed lacks it."""
    values = [_value(run.history(arm, seed), metric, at) for seed in seeds]
    known = [value for value in values if value is not None]
    return SeedValues.exact(known) if known and len(known) == len(values) else None


def _onset(history: History) -> Onset | None:
    """The onset; None where the accuracies that tell it were not recorded."""
    return onset(history) if has_accuracies(history) else None


def _value(history: History, metric: str, at: Moment) -> float | None:
    """A metric at a moment of one training; None where it, or the moment, was not recorded."""
    if metric not in history:
        return None
    column = history[metric]
    if at in ("memorized", "onset.start", "onset.middle", "onset.end"):
        found = _onset(history)
        step = None if found is None else found.at(at.removeprefix("onset."))
        value = None if step is None else value_at(history, metric, step)
        return None if value is None or math.isnan(value) else value
    column = column[[metric in row for row in history]]
    pick = {"first": column[0], "last": column[-1], "max": column.max(), "min": column.min()}
    return float(pick[at])
