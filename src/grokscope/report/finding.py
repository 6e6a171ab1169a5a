"""What a run found, in a sentence that stands even when the answer is disappointing.

And what it says of each claim: what was measured, what was asked, who says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grokscope.findings import Claim, Verdict
from grokscope.findings.statistics import Interval, SeedValues
from grokscope.findings.summary import END, START, ArmSummary, RunSummary
from grokscope.findings.target import Unit
from grokscope.report.wording import (
    count,
    duration,
    listed,
    metric_name,
    number,
    percent,
    ratio,
    spread_text,
    target_value,
    times,
)

_MOST = 4  # arms beside the baseline that are told one by one
_SAME = 1.1  # less than a tenth either way is "about as many"


@dataclass(frozen=True)
class Finding:
    """A headline, a sentence for each further arm, and what its words mean."""

    headline: str
    further: list[str]
    meaning: str


def finding(summary: RunSummary) -> Finding:
    """The finding of a run: the fastest arm against the baseline, then the rest.

    Where an analysis found something else, that is the finding.

    Example:
        >>> finding(RunSummary("toy", "A toy", "running", None, {}, [])).headline
        'A toy: nothing has been measured yet'
    """
    meaning = _meaning(summary)
    if summary.told:
        return Finding(summary.told, [], meaning)
    measured = [arm for arm in summary.arms if arm.trained]
    if not measured:
        return Finding(f"{summary.title}: nothing has been measured yet", [], meaning)
    if END not in summary.milestones:
        return Finding(*_split([_final_sentence(arm) for arm in measured]), meaning)
    baseline = next((arm for arm in measured if arm.arm == summary.baseline), None)
    others = [arm for arm in measured if arm is not baseline]
    if baseline is None or not others:
        return Finding(*_split([_alone(arm) for arm in measured]), meaning)
    if not any(_num_generalized(arm) for arm in measured):
        return Finding(_none(measured), [], meaning)
    if all(_time(arm) is None for arm in measured):
        sentences = [_alone(arm) for arm in measured]
    else:
        sentences = [_against(arm, baseline) for arm in sorted(others, key=_order)]
    headline, *further = sentences
    if len(others) > _MOST:
        further = [f"The table has the other {len(further)} conditions"]
    return Finding(headline, further, meaning)


def speed_up_words(bounds: Interval) -> str:
    """The ratio of the baseline's steps to an arm's in words.

    Example:
        >>> speed_up_words(Interval(11, 11)), speed_up_words(Interval(0.5, 0.5))
        ('11× fewer', '2.0× more')
        >>> speed_up_words(Interval(25, math.inf)), speed_up_words(Interval(20, 30))
        ('at least 25× fewer', '20 to 30× fewer')
        >>> speed_up_words(Interval(0.95, 0.95))
        'about as many'
    """
    if bounds.low > 1 / _SAME and bounds.high < _SAME:
        return "about as many"
    if bounds.low >= 1:
        return f"{bounds.text(ratio)}× fewer"
    return f"{Interval(1 / bounds.high, 1 / bounds.low).text(ratio)}× more"


def _split(sentences: list[str]) -> tuple[str, list[str]]:
    return sentences[0], sentences[1:]


def _time(arm: ArmSummary, unit: Unit = "steps") -> Interval | None:
    """The median time to generalize; None where it has no largest value or was not recorded."""
    times = arm.milestones.get(END)
    if times is None or math.isnan(times[unit].median.low) or not times[unit].median.is_bounded:
        return None
    return times[unit].median


def _order(arm: ArmSummary) -> float:
    steps = _time(arm)
    return math.inf if steps is None else steps.low


def _num_generalized(arm: ArmSummary) -> int:
    """The number of seeds whose time to generalize is known."""
    times = arm.milestones.get(END)
    return times["steps"].num_known if times else 0


def _short_of_it(arm: ArmSummary, *, brief: bool = False) -> str:
    """What an arm did that has no median time to generalize; "yet" while that may still change."""
    over = _over(arm)
    if known := _num_generalized(arm):
        seeds, run = f"generalized with {known} of {len(arm.seeds)} seeds", count(_trained(arm))
        return f"{seeds} within {run} steps" if over else f"has {seeds} so far, at step {run}"
    run = count(_limit(arm))
    if over:
        return f"did not{'' if brief else ' generalize'} within {run} steps"
    return f"has not{'' if brief else ' generalized'} yet, at step {run}"


def _limit(arm: ArmSummary) -> float:
    """The steps that generalizing takes at least, or else those that the arm was trained."""
    times = arm.milestones.get(END)
    return times["steps"].median.low if times and _time(arm) is None else _trained(arm)


def _trained(arm: ArmSummary) -> float:
    return max(arm.trained["steps"].lows)


def _against(arm: ArmSummary, baseline: ArmSummary) -> str:
    steps, reference = _time(arm), _time(baseline)
    if steps is None:
        rest = "" if reference is None else f"; {baseline.title} did after {reference.text(count)}"
        return f"{arm.title} {_short_of_it(arm)}{rest}"
    if reference is None:
        return (
            f"{arm.title} generalized after {steps.text(count)} steps; "
            f"{baseline.title} {_short_of_it(baseline, brief=True)}"
        )
    speed_up = arm.speed_up.get("steps")
    if speed_up is None:
        return (
            f"{arm.title} generalized after {steps.text(count)} steps, "
            f"{baseline.title} after {reference.text(count)}"
        )
    words = speed_up_words(speed_up.median)
    same = words == "about as many"
    said = f"{arm.title} generalized in {words} steps" + (f" as {baseline.title}" if same else "")
    if not _agrees(speed_up.median, steps, reference):
        return said + _by_seed(steps.text(count), reference.text(count))
    return f"{said}: {steps.text(count)} {'and' if same else 'instead of'} {reference.text(count)}"


def _agrees(ratio_of_seeds: Interval, ours: Interval, theirs: Interval) -> bool:
    """Whether the median of ratios can be the ratio of medians, but for a tenth."""
    # Times are multiplied by, not divided: those of seeds that are not shared may be 0.
    at_least = theirs.low <= _SAME * ratio_of_seeds.high * ours.high
    return at_least and ratio_of_seeds.low * ours.low <= _SAME * theirs.high


def _by_seed(ours: str, theirs: str) -> str:
    return f", by the median of ratios seed by seed; the medians are {ours} and {theirs}"


def _over(arm: ArmSummary) -> bool:
    return arm.state in ("finished", "diverged")


def _none(arms: list[ArmSummary]) -> str:
    names = [arm.title for arm in arms]
    least = min(_limit(arm) for arm in arms)
    if all(_over(arm) for arm in arms):
        verb = "Neither" if len(arms) == 2 else "None"
        return f"{verb} of {listed(names)} generalized within {count(least)} steps"
    return f"{listed(names)}: none has generalized yet, at step {count(least)}"


def _alone(arm: ArmSummary) -> str:
    steps = _time(arm)
    if steps is None:
        return f"{arm.title} {_short_of_it(arm)}"
    said = f"{arm.title} generalized after {steps.text(count)} steps"
    delay = None if arm.delay is None else arm.delay["steps"].median
    if delay is None or not delay.is_bounded:
        return said
    if delay.high == 0:
        return f"{said}, without delay"
    return f"{said}, {delay.text(count)} after it had memorized"


def _final_sentence(arm: ArmSummary) -> str:
    shown = [
        name for name in ("train_accuracy", "test_accuracy", "train_loss") if name in arm.final
    ]
    values = listed([f"{metric_name(name)} {spread_text(name, arm.final[name])}" for name in shown])
    return f"{arm.title} after {count(_trained(arm))} steps" + (f": {values}" if values else "")


def _meaning(summary: RunSummary) -> str:
    words = {START: "Memorized", END: "Generalized"}
    parts = [
        f"{words.get(name, name.capitalize())}: {metric_name(target.metric)} has reached "
        f"{target_value(target.metric, target.target)}"
        for name, target in summary.milestones.items()
    ]
    if {START, END} <= set(summary.milestones):
        parts.append("Delay: from the one to the other")
    return ". ".join(parts)


def time_sentences(summary: RunSummary) -> list[str]:
    """The comparison in training time, a sentence for each arm that generalized like its baseline.

    A method that needs fewer steps can still need more time, each step being dearer. Of many arms
    only the one that the finding begins with has a sentence.
    """
    baseline = next((arm for arm in summary.arms if arm.arm == summary.baseline), None)
    other = None if baseline is None else _time(baseline, "seconds")
    if other is None:
        return []
    arms = [arm for arm in summary.arms if arm is not baseline]
    if len(arms) > _MOST:
        arms = [min(arms, key=_order)]
    sentences = []
    for arm in arms:
        own, speed_up = _time(arm, "seconds"), arm.speed_up.get("seconds")
        if own is not None and speed_up is not None and speed_up.median.is_bounded:
            words = speed_up_words(speed_up.median)
            words = words.replace("fewer", "less").replace("many", "much")
            took, instead = own.text(duration), other.text(duration)
            if _agrees(speed_up.median, own, other):
                rest = f"{took} instead of {instead}: {words}"
            else:
                rest = words + _by_seed(took, instead)
            sentences.append(f"In training time, {arm.title} took {rest}")
    return sentences


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
    moments = {getattr(claim.quantity, name, "first") for name in ("at", "over")}
    moving = not settled and moments != {"first"}
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

    claim = verdict.claim

    def write(value: float) -> str:
        text = _value(claim.quantity, value)
        bounds = {claim.at_least, claim.at_most} - {None, value}
        # 9.97 is not held against "at least 10", but both would be written as 10
        hidden = any(_value(claim.quantity, bound) == text for bound in bounds if bound is not None)
        return f"{text} ({value:.5g})" if hidden else text

    return values.median.text(write) + _over_seeds(values, write)


def _over_seeds(values: SeedValues, write: Callable[[float], str]) -> str:
    """How many seeds the median is of, from where to where, and how many of them are known."""
    if len(values) == 1:
        return ""
    known = values.known
    ends = [Interval(end, end).text(write) for end in (min(known), max(known))] if known else []
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
