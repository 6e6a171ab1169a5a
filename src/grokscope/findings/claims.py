"""Claims as data: a figure of a run and the bound that it should keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grokscope.findings.onset import onset, value_at
from grokscope.findings.reach import Unit, time_to
from grokscope.findings.statistics import Bounds, Sample
from grokscope.runs.history import History
from grokscope.runs.reader import Run

Moment = Literal[
    "first", "last", "max", "min", "memorised", "onset.start", "onset.middle", "onset.end"
]


class Strict(BaseModel):
    """A part of a spec: unknown fields are mistakes, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Figure:
    """A figure of a run: its value for each seed, or the least that it can be.

    ``highs`` are the most that it can be, seed by seed; None where all values are known.
    """

    values: tuple[float, ...]
    highs: tuple[float, ...] | None = None

    @classmethod
    def of(cls, sample: Sample) -> Figure:
        """The figure of a sample."""
        return cls(sample.lows, sample.highs)

    @property
    def sample(self) -> Sample:
        """The values with their bounds."""
        return Sample(self.values, self.values if self.highs is None else self.highs)

    @property
    def bounds(self) -> Bounds:
        """The median over seeds, or what it lies between."""
        return self.sample.median

    @property
    def median(self) -> float:
        """Median over seeds, or the least that it can be."""
        return self.bounds.low

    @property
    def is_lower_bound(self) -> bool:
        """Whether the median may be larger."""
        return self.bounds.low < self.bounds.high


class StepsTo(Strict):
    """Steps until a metric reaches a target; the steps run, as a bound, if it never did.

    With ``since`` they are counted from where the metric first is at or above that.
    """

    kind: Literal["steps_to"]
    arm: str
    metric: str = "test_accuracy"
    target: float
    unit: Unit = "steps"
    since: float | None = None

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None without rows."""
        seeds = run.seeds(self.arm)
        return Figure.of(_reach(run, seeds, self.arm, self)) if seeds else None


class SpeedUp(Strict):
    """How many times sooner an arm reaches a target than the baseline, seed by seed.

    ``since`` is that of ``StepsTo``.
    """

    kind: Literal["speed_up"]
    arm: str
    baseline: str = "baseline"
    metric: str = "test_accuracy"
    target: float
    unit: Unit = "steps"
    since: float | None = None

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where the arms share no seed."""
        theirs = run.seeds(self.baseline)
        seeds = [seed for seed in run.seeds(self.arm) if seed in theirs]
        if not seeds:
            return None
        fast, slow = (_reach(run, seeds, arm, self) for arm in (self.arm, self.baseline))
        return Figure.of(slow.over(fast))


class Value(Strict):
    """A metric of an arm at a moment of training, or its extreme over the run.

    The moments of an onset are those of ``grokscope.onset``, between readings interpolated in the
    logarithm of steps.
    """

    kind: Literal["value"]
    arm: str
    metric: str
    at: Moment = "last"

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where the metric was not recorded or the moment not met."""
        values = []
        for seed in run.seeds(self.arm):
            value = _value(run.history(self.arm, seed), self.metric, self.at)
            if value is None:
                return None
            values.append(value)
        return Figure(tuple(values)) if values else None


class Difference(Strict):
    """What a metric is in one arm less what it is in another, seed by seed."""

    kind: Literal["difference"]
    arm: str
    baseline: str = "baseline"
    metric: str
    at: Moment = "last"

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where an arm lacks the metric."""
        ours, theirs = (
            Value(kind="value", arm=arm, metric=self.metric, at=self.at).figure(run)
            for arm in (self.arm, self.baseline)
        )
        if ours is None or theirs is None:
            return None
        return Figure(tuple(a - b for a, b in zip(ours.values, theirs.values, strict=False)))


class Change(Strict):
    """A metric at one moment over the same metric at another: 1 is no change."""

    kind: Literal["change"]
    arm: str
    metric: str
    at: Moment
    over: Moment

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where the metric or one of the moments is missing."""
        above, below = (
            Value(kind="value", arm=self.arm, metric=self.metric, at=at).figure(run)
            for at in (self.at, self.over)
        )
        if above is None or below is None or 0.0 in below.values:
            return None
        return Figure(tuple(a / b for a, b in zip(above.values, below.values, strict=True)))


class Delay(Strict):
    """How many times as many steps half of the rise of test accuracy takes as memorising does.

    1 stands for no delay; where it never rose, the steps run are a bound. ``grokscope.onset``
    tells them apart.
    """

    kind: Literal["delay"]
    arm: str

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where training data were not memorised."""
        found = [onset(run.history(self.arm, seed)) for seed in run.seeds(self.arm)]
        if not found or any(each.memorised is None for each in found):
            return None
        limits = [each.last / max(each.memorised or 1.0, 1.0) for each in found]
        return Figure.of(Sample.censored([each.delay for each in found], limits))


class Result(Strict):
    """A figure of results.json, found by its dotted name."""

    kind: Literal["result"]
    name: str

    def figure(self, run: Run) -> Figure | None:
        """The figure in ``run``; None where the experiment has not computed it."""
        values: list[float] = []
        for results in run.results_of_seeds:
            value: Any = results
            for part in self.name.split("."):
                if not isinstance(value, dict) or part not in value:
                    return None
                value = value[part]
            values += map(float, value if isinstance(value, list) else [value])
        return Figure(tuple(values)) if values else None


Quantity = Annotated[
    StepsTo | SpeedUp | Value | Difference | Change | Delay | Result, Field(discriminator="kind")
]


class Claim(Strict):
    """A statement about a run that can turn out false.

    ``says`` is the statement in words, ``source`` where it comes from, ``quantity`` the figure
    and ``at_least``/``at_most`` its bounds. With several seeds the median is judged.
    """

    says: str
    source: str = ""
    quantity: Quantity
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> Claim:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a claim needs at_least or at_most")
        return self


@dataclass(frozen=True)
class Verdict:
    """A claim with what the run says of it: "held", "not held" or "open"."""

    claim: Claim
    state: Literal["held", "not held", "open"]
    figure: Figure | None


def judge(claim: Claim, run: Run) -> Verdict:
    """Hold a claim against a run; it stays open where the run has no figure to judge it by."""
    figure = claim.quantity.figure(run)
    if figure is None or math.isnan(figure.median):
        return Verdict(claim, "open", figure)
    least = -math.inf if claim.at_least is None else claim.at_least
    most = math.inf if claim.at_most is None else claim.at_most
    low, high = figure.bounds.low, figure.bounds.high
    # Where the median is only bounded, claims are settled that hold or fail for all it can be.
    if low >= least and high <= most:
        return Verdict(claim, "held", figure)
    return Verdict(claim, "not held" if high < least or low > most else "open", figure)


def verdicts(run: Run) -> Sequence[Verdict]:
    """The verdict on each claim that the run's spec makes."""
    return [judge(Claim.model_validate(claim), run) for claim in run.spec.get("claims", [])]


def _reach(run: Run, seeds: Sequence[int], arm: str, quantity: StepsTo | SpeedUp) -> Sample:
    histories = [run.history(arm, seed) for seed in seeds]
    return time_to(histories, quantity.metric, quantity.target, quantity.unit, quantity.since)


def _value(history: History, metric: str, at: Moment) -> float | None:
    """A metric at a moment of one training; None where it, or the moment, was not recorded."""
    if metric not in history:
        return None
    column = history[metric]
    if at in ("memorised", "onset.start", "onset.middle", "onset.end"):
        step = onset(history).at(at.removeprefix("onset."))
        value = None if step is None else value_at(history, metric, step)
        return None if value is None or math.isnan(value) else value
    column = column[[metric in row for row in history]]
    pick = {"first": column[0], "last": column[-1], "max": column.max(), "min": column.min()}
    return float(pick[at])
