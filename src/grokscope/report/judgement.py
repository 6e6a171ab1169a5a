"""Verdicts in words: what was measured, what was asked, who says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grokscope.findings import Claim, Verdict
from grokscope.findings.statistics import SeedValues
from grokscope.report.wording import count, duration, number, percent, target_value, times

MARKS = {"held": "✓", "not held": "✗", "open": "?"}


@dataclass(frozen=True)
class Judgement:
    """One claim with its verdict, every part ready to print."""

    state: str
    word: str
    mark: str
    says: str
    measured: str
    asked: str
    source: str


def judgement(verdict: Verdict, run_state: str = "finished") -> Judgement:
    """A verdict in words; what an unfinished run says is only so "so far".

    A claim on where a metric ends, or on its extremes, is open until the run has ended.
    """
    claim = verdict.claim
    settled = run_state == "finished" or verdict.state == "open"
    moving = not settled and getattr(claim.quantity, "at", "first") != "first"
    state = "open" if moving else verdict.state
    return Judgement(
        state=state,
        word=verdict.state if settled else f"{verdict.state} so far",
        mark=MARKS[state],
        says=claim.says,
        measured=_measured(verdict),
        asked=_asked(claim),
        source=claim.source,
    )


def _measured(verdict: Verdict) -> str:
    values = verdict.measured
    if values is None:
        return "nothing yet"

    def write(value: float) -> str:
        return _value(verdict.claim.quantity, value)

    return values.median.text(write) + _over_seeds(values, write)


def _over_seeds(values: SeedValues, write: Callable[[float], str]) -> str:
    """How many seeds the median is of, from where to where, and how many of them are known."""
    if len(values) == 1:
        return ""
    ends = [write(end) for end in (min(values.known), max(values.known))] if values.known else []
    span = f", {ends[0]} to {ends[1]}" if len(set(ends)) > 1 else ""
    missing = f", {values.num_known} of them known" if values.num_known < len(values) else ""
    return f" (median of {len(values)} seeds{missing}{span})"


def _asked(claim: Claim) -> str:
    low, high = (
        None if bound is None else _value(claim.quantity, bound, bound=True)
        for bound in (claim.at_least, claim.at_most)
    )
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"between {low} and {high}"


def _value(quantity: Any, value: float, *, bound: bool = False) -> str:
    """A value in the unit of the quantity that a claim is about."""
    if quantity.kind == "steps_to":
        return duration(value) if quantity.unit == "seconds" else f"{count(value)} steps"
    if quantity.kind == "change":
        return f"{value:.3g}×"
    if quantity.kind in ("speed_up", "delay"):
        return f"{value:g}×" if bound else times(value)
    metric = getattr(quantity, "metric", "")
    if metric.endswith("accuracy"):
        if quantity.kind == "difference":
            return f"{100 * value:+.1f} points"
        return target_value(metric, value) if bound else percent(value)
    return number(value)
