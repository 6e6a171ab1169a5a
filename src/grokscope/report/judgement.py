"""Verdicts in words: what was measured, what was asked, who says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from grokscope.findings import Claim, Verdict
from grokscope.findings.statistics import Interval, SeedValues
from grokscope.report.wording import count, duration, number, percent, ratio, target_value

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
    quantity = verdict.claim.quantity
    return _median(quantity, values.median) + _over_seeds(quantity, values)


def _median(quantity: Any, bounds: Interval) -> str:
    """The median over seeds, or what it lies between."""
    text = _value(quantity, bounds.low)
    if not bounds.low < bounds.high:
        return text
    if bounds.high == math.inf:
        return f"more than {text}" if bounds.low else "not known"
    most = _value(quantity, bounds.high)
    return f"between {text} and {most}" if bounds.low else f"less than {most}"


def _over_seeds(quantity: Any, sample: SeedValues) -> str:
    """How many seeds the median is of, from where to where, and how many of them got there."""
    if len(sample) == 1:
        return ""
    known = sample.known
    ends = [_value(quantity, end) for end in (min(known), max(known))] if known else []
    span = f", {ends[0]} to {ends[1]}" if len(set(ends)) > 1 else ""
    missing = f", {len(known)} of them known" if len(known) < len(sample) else ""
    return f" (median of {len(sample)} seeds{missing}{span})"


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
        return f"{value:.3g} times"
    if quantity.kind in ("speed_up", "delay"):
        return f"{value:g} times" if bound else f"{ratio(value)} times"
    metric = getattr(quantity, "metric", "")
    if metric.endswith("accuracy"):
        if quantity.kind == "difference":
            return f"{100 * value:+.1f} points"
        return target_value(metric, value) if bound else percent(value)
    return number(value)
