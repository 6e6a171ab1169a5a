"""A metric that reaches a value, and the time to it, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from grokscope.arguments import check_fields
from grokscope.findings.sections import Finite, Strict
from grokscope.findings.statistics import SeedValues
from grokscope.runs.history import History
from grokscope.shown import shown

Unit = Literal["steps", "seconds"]
UNITS: tuple[Unit, ...] = ("steps", "seconds")


@shown()
@dataclass(frozen=True)
class Target:
    """A metric at or above a value: where training may stop, or a milestone on its way.

    A metric whose name ends in "loss" reaches a value from above: at or below it.

    Args:
        metric: the column that has the target.
        target: the value that it has to reach.

    Raises:
        ValueError: if the metric is an accuracy and the target is not from 0 to 1.

    Example:
        >>> target = Target("test_accuracy", 0.9)
        >>> target.is_reached({"step": 100, "test_accuracy": 0.85})
        False
        >>> rows = [{"step": 0, "test_accuracy": 0.1}, {"step": 900, "test_accuracy": 0.9}]
        >>> target.first_step(History(rows)), target.time_to([History(rows)]).median.text()
        (900, '900')
        >>> Target("test_loss", 0.5).is_reached({"step": 100, "test_loss": 0.7})
        False
    """

    metric: str = "test_accuracy"
    target: float = 0.9

    def __post_init__(self) -> None:
        check_fields(self)
        if self.metric.endswith("accuracy") and not 0 <= self.target <= 1:
            raise ValueError(
                f"target: {self.metric} runs from 0 to 1: got {self.target:g}; 85 % is 0.85"
            )

    def is_reached(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has reached the target; a row without the metric has not."""
        value = row.get(self.metric)
        if value is None:
            return False
        return bool(value <= self.target if self._falls else value >= self.target)

    def first_step(self, history: History) -> int | None:
        """The first recorded step that has reached the target; None where there is none."""
        return history.first_step(self.metric, self.target, at_most=self._falls)

    def time_to(
        self, histories: Iterable[History], unit: Unit = "steps", since: float | None = None
    ) -> SeedValues:
        """Steps or training seconds until the target is reached, a value for each seed.

        A seed that did not reach it is right-censored at the last row that has the metric, and at 0
        where no row has it. Seconds are NaN where none were recorded.

        Args:
            histories: one for each seed, each with rows.
            unit: "steps" or "seconds".
            since: count from where the metric first has reached this, not from the start.

        Raises:
            ValueError: if there is no history, or the target is reached before ``since``.

        Example:
            >>> rows = [{"step": 0, "a": 0.1}, {"step": 100, "a": 0.3}, {"step": 900, "a": 0.9}]
            >>> Target("a", 0.95).time_to([History(rows)], since=0.2).median.text()
            'at least 800'
        """
        start = None if since is None else self.earlier(since)
        values, limits = [], []
        for history in histories:
            clock = _clock(history, unit)
            begin = 0.0 if start is None else _at(history, clock, start)
            end = _at(history, clock, self)
            values.append(None if begin is None or end is None else end - begin)
            last = _last_known(history, clock, self.metric)
            limits.append(0.0 if begin is None or last is None else last - begin)
        return SeedValues.censored(values, limits)

    def earlier(self, level: float) -> Target:
        """The level that the metric reaches on its way, from which time may be counted.

        Raises:
            ValueError: if the target is reached first, or no metric of the name has this value.
        """
        start = Target(self.metric, level)
        before = level > self.target if self._falls else level < self.target
        if not before:
            side = "above" if self._falls else "below"
            raise ValueError(
                f"since must lie {side} the target of {self.metric}, {self.target:g}: got {level:g}"
            )
        return start

    @property
    def _falls(self) -> bool:
        return self.metric.endswith("loss")


class TargetSection(Strict):
    """A target as a spec has it."""

    metric: str = Target.metric
    target: Finite

    @model_validator(mode="after")
    def _can_be_reached(self) -> TargetSection:
        _ = self.goal  # the class checks its own arguments
        return self

    @property
    def goal(self) -> Target:
        """The target itself."""
        return Target(self.metric, self.target)


class TimeSection(TargetSection):
    """A time to a target as a spec has it.

    With ``since`` it is counted from where the metric first has reached that.
    """

    since: Finite | None = None

    @model_validator(mode="after")
    def _can_begin(self) -> TimeSection:
        if self.since is not None:
            self.goal.earlier(self.since)
        return self

    def time_to(self, histories: Iterable[History], unit: Unit) -> SeedValues:
        """Steps or training seconds to the target, a value for each seed."""
        return self.goal.time_to(histories, unit, self.since)


def _clock(history: History, unit: Unit) -> NDArray[np.float64]:
    """The steps or the seconds of each row."""
    if unit == "steps":
        return history.steps.astype(np.float64)
    if "train_seconds" in history:
        return history["train_seconds"]
    return np.full(len(history), np.nan)


def _last_known(history: History, clock: NDArray[np.float64], metric: str) -> float | None:
    """Where the metric was last known: what it did in rows without it, nobody can tell."""
    known = clock[np.isfinite(history[metric])] if metric in history else clock[:0]
    return float(known[-1]) if len(known) else None


def _at(history: History, clock: NDArray[np.float64], target: Target) -> float | None:
    step = target.first_step(history)
    return None if step is None else float(clock[np.argmax(history.steps == step)])
