"""What a run found, in a sentence that stands even when the answer is disappointing."""

from __future__ import annotations

from dataclasses import dataclass

from grokscope.report.summary import END, START, ArmSummary, Ratio, RunSummary
from grokscope.report.wording import (
    count,
    duration,
    listed,
    metric_name,
    metric_value,
    ratio,
    target_value,
)

_MOST = 4  # arms beside the baseline that are told one by one
_SAME = 1.1  # less than a tenth either way is "as soon as"


@dataclass(frozen=True)
class Finding:
    """A headline, a sentence for each further arm, and what its words mean."""

    headline: str
    further: list[str]
    meaning: str


def finding(summary: RunSummary) -> Finding:
    """The finding of a run: the arm that generalised soonest against the baseline, then the rest.

    Where an analysis found something else, that is the finding.

    Example:
        >>> finding(RunSummary("toy", "A toy", "running", None, [], [])).headline
        'A toy: nothing has been measured yet'
    """
    meaning = _meaning(summary)
    if summary.told:
        return Finding(summary.told, [], meaning)
    measured = [arm for arm in summary.arms if arm.steps_run is not None]
    if not measured:
        return Finding(f"{summary.title}: nothing has been measured yet", [], meaning)
    if summary.milestone(END) is None:
        return Finding(*_split([_final_sentence(arm) for arm in measured]), meaning)
    baseline = next((arm for arm in measured if arm.arm == summary.baseline), None)
    others = [arm for arm in measured if arm is not baseline]
    if baseline is None or not others:
        return Finding(*_split([_alone(arm) for arm in measured]), meaning)
    if all(_steps(arm) is None for arm in measured) and len(measured) > 1:
        return Finding(_none(measured), [], meaning)
    others.sort(key=lambda arm: _steps(arm) or float("inf"))
    headline, *further = [_against(arm, baseline) for arm in others]
    if len(others) > _MOST:
        further = [f"The table has the other {len(further)} arms"]
    return Finding(headline, further, meaning)


def sooner(value: Ratio) -> str:
    """A speed-up in words.

    Example:
        >>> from grokscope.findings.statistics import SeedValues
        >>> sooner(Ratio(SeedValues.exact([11.0]))), sooner(Ratio(SeedValues.exact([0.5])))
        ('11 times sooner', '2.0 times later')
        >>> sooner(Ratio(SeedValues((25.0,), (float("inf"),))))
        'more than 25 times sooner'
    """
    if value.is_lower_bound:
        return f"more than {ratio(value.median)} times sooner"
    if value.median >= _SAME:
        return f"{ratio(value.median)} times sooner"
    if value.median <= 1 / _SAME:
        return f"{ratio(1 / value.median)} times later"
    return "about as soon"


def _split(sentences: list[str]) -> tuple[str, list[str]]:
    return sentences[0], sentences[1:]


def _steps(arm: ArmSummary) -> float | None:
    reach = arm.milestones.get(END)
    return None if reach is None else reach.steps.median


def _so_far(arm: ArmSummary) -> str:
    """How far an arm was trained that did not generalise; "yet" while that may still change."""
    run = count(_limit(arm))
    return f"within {run} steps" if _over(arm) else f"yet, at step {run}"


def _limit(arm: ArmSummary) -> float:
    reach = arm.milestones.get(END)
    if reach is not None and reach.steps.reached < len(reach.steps.values):
        return reach.steps.limit
    assert arm.steps_run is not None
    return max(arm.steps_run.known)


def _against(arm: ArmSummary, baseline: ArmSummary) -> str:
    steps, reference = _steps(arm), _steps(baseline)
    if steps is None:
        verb = "did not generalise" if _over(arm) else "has not generalised"
        rest = "" if reference is None else f"; {baseline.title} did after {count(reference)}"
        return f"{arm.title} {verb} {_so_far(arm)}{rest}"
    speed_up = arm.speed_up.get("steps")
    if reference is None:
        verb = "did not" if _over(baseline) else "has not"
        return (
            f"{arm.title} generalised after {count(steps)} steps; "
            f"{baseline.title} {verb} {_so_far(baseline)}"
        )
    if speed_up is None:
        return (
            f"{arm.title} generalised after {count(steps)} steps, "
            f"{baseline.title} after {count(reference)}"
        )
    words = sooner(speed_up)
    if words == "about as soon":
        return (
            f"{arm.title} generalised about as soon as {baseline.title}: "
            f"{count(steps)} steps and {count(reference)}"
        )
    return f"{arm.title} generalised {words}: {count(steps)} steps instead of {count(reference)}"


def _over(arm: ArmSummary) -> bool:
    return arm.state in ("finished", "diverged")


def _none(arms: list[ArmSummary]) -> str:
    names = [arm.title for arm in arms]
    least = min(_limit(arm) for arm in arms)
    if all(_over(arm) for arm in arms):
        verb = "Neither" if len(arms) == 2 else "None"
        return f"{verb} of {listed(names)} generalised within {count(least)} steps"
    return f"{listed(names)}: none has generalised yet, at step {count(least)}"


def _alone(arm: ArmSummary) -> str:
    steps = _steps(arm)
    if steps is None:
        verb = "did not generalise" if _over(arm) else "has not generalised"
        return f"{arm.title} {verb} {_so_far(arm)}"
    delay = None if arm.delay is None else arm.delay.steps.median
    if delay is None:
        return f"{arm.title} generalised after {count(steps)} steps"
    if delay == 0:
        return f"{arm.title} generalised after {count(steps)} steps, without delay"
    return (
        f"{arm.title} generalised after {count(steps)} steps, {count(delay)} after it had memorised"
    )


def _final_sentence(arm: ArmSummary) -> str:
    assert arm.steps_run is not None
    shown = [
        name for name in ("train_accuracy", "test_accuracy", "train_loss") if name in arm.final
    ]
    figures = listed(
        [f"{metric_name(name)} {metric_value(name, arm.final[name][0])}" for name in shown]
    )
    steps = count(max(arm.steps_run.known))
    return f"{arm.title} after {steps} steps" + (f": {figures}" if figures else "")


def _meaning(summary: RunSummary) -> str:
    words = {START: "Memorised", END: "Generalised"}
    parts = [
        f"{words.get(item.name, item.name.capitalize())}: {metric_name(item.metric)} has reached "
        f"{target_value(item.metric, item.target)}"
        for item in summary.milestones
    ]
    if {START, END} <= {item.name for item in summary.milestones}:
        parts.append("Delay: from the one to the other")
    return ". ".join(parts)


def time_sentences(summary: RunSummary) -> list[str]:
    """The comparison in training time, a sentence for each arm that generalised like its baseline.

    A method that needs fewer steps can still need more time, each step being dearer. Of many arms
    only the one that the finding begins with has a sentence.
    """
    baseline = next((arm for arm in summary.arms if arm.arm == summary.baseline), None)
    theirs = None if baseline is None else baseline.milestones.get(END)
    other = None if theirs is None else theirs.seconds.median
    if other is None:
        return []
    sentences = []
    arms = summary.arms
    if len(arms) - 1 > _MOST:
        others = [arm for arm in arms if arm is not baseline]
        arms = [min(others, key=lambda arm: _steps(arm) or float("inf"))]
    for arm in arms:
        own = arm.milestones[END].seconds.median if END in arm.milestones else None
        speed_up = arm.speed_up.get("seconds")
        if own is not None and speed_up is not None and not speed_up.is_lower_bound:
            sentences.append(
                f"In training time, {arm.title} took {duration(own)} instead of "
                f"{duration(other)}: {sooner(speed_up)}"
            )
    return sentences
