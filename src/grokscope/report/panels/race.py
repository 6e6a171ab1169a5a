"""The arms side by side on their way to a target: steps, time, and how much sooner, over seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from grokscope.findings.reach import Unit, time_to
from grokscope.findings.statistics import Sample
from grokscope.report.panels.base import Context, Drawing, NothingToDraw, Panel, PanelError
from grokscope.report.wording import NOTHING, count, duration, ratio, target_value
from grokscope.runs.history import History


class Published(BaseModel):
    """How many times sooner a paper's arm was: in steps, in time, and in time since ``since``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: float | None = None
    seconds: float | None = None
    since: float | None = None


class Race(Panel):
    """Steps and training time to a target as a table, each arm against the baseline by seed.

    Attributes:
        metric: what has the target.
        target: what it has to reach.
        baseline: the arm that the others are held against.
        arms: the arms to show; all by default.
        since: also the time from where the metric first is at or above this.
        published: figures of a paper to stand beside ours, by arm.
    """

    kind: Literal["race"]
    title: str = "The way to the target"
    metric: str = "test_accuracy"
    target: float
    baseline: str = "baseline"
    arms: list[str] | None = None
    since: float | None = None
    published: dict[str, Published] = Field(default_factory=dict)
    wide: bool = True

    def draw(self, context: Context) -> list[Drawing]:
        """The table."""
        arms = context.arms(self.arms)
        if not arms:
            raise NothingToDraw("no arm has rows")
        for arm in self.published:
            context.arms([arm])
        if self.baseline not in context.subject.arms:
            raise PanelError(f"baseline: this run has no arm {self.baseline!r}")
        rows = [
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                context.subject.arm_title(arm), Markup().join(self._cells(context, arm))
            )
            for arm in arms
        ]
        heads = Markup().join(map(Markup('<th scope="col">{}</th>').format, self._heads()))
        html = Markup(
            '<div class="scroll" tabindex="0"><table class="figures"><caption class="unseen">{}'
            "</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
        ).format(self.title, heads, Markup("\n").join(rows))
        return [Drawing(title=self.title, look_for=self.look_for, html=html, wide=self.wide)]

    def _heads(self) -> list[str]:
        target = _unbroken(target_value(self.metric, self.target))
        heads = ["", "Got there", f"Steps to {target}", "Fewer steps", "Training time", "Less time"]
        if self.since is not None:
            since = f"{_unbroken(target_value(self.metric, self.since))} to {target}"
            heads += [f"Time from {since}", f"Less time from {since}"]
        return heads

    def _cells(self, context: Context, arm: str) -> list[Markup]:
        seeds = self._seeds(context, arm)
        ours = [context.subject.histories[arm, seed] for seed in seeds]
        steps = self._sample(ours, "steps")
        published = self.published.get(arm, Published())
        cells = [_cell(f"{steps.known} of {len(steps)}")]
        columns: list[tuple[Unit, float | None, float | None, Callable[[float], str]]] = [
            ("steps", None, published.steps, count),
            ("seconds", None, published.seconds, duration),
        ]
        if self.since is not None:
            columns.append(("seconds", self.since, published.since, duration))
        for unit, since, theirs, write in columns:
            cells.append(_cell(*_lines(self._sample(ours, unit, since), write)))
            cells.append(self._ratio(context, arm, unit, since, theirs))
        return cells

    def _ratio(
        self, context: Context, arm: str, unit: Unit, since: float | None, published: float | None
    ) -> Markup:
        both = [s for s in self._seeds(context, arm) if s in self._seeds(context, self.baseline)]
        if arm == self.baseline or not both:
            return _cell(NOTHING)
        ours, theirs = (
            self._sample([context.subject.histories[name, seed] for seed in both], unit, since)
            for name in (arm, self.baseline)
        )
        lines = _lines(theirs.over(ours), lambda value: f"{ratio(value)} ×")
        return _cell(*lines, *([] if published is None else [f"paper: {published:g} ×"]))

    def _seeds(self, context: Context, arm: str) -> list[int]:
        """The seeds whose training is over: of the others it is not known how they would end."""
        return [
            seed
            for seed in context.subject.seeds(arm)
            if context.subject.trial(arm, seed).get("state") == "finished"
        ]

    def _sample(self, histories: list[History], unit: Unit, since: float | None = None) -> Sample:
        return time_to(histories, self.metric, self.target, unit, since)


def _lines(sample: Sample, write: Callable[[float], str]) -> list[str]:
    """Median; mean and deviation; bootstrap interval of the median."""

    def whole(value: float) -> str:
        return _unbroken(write(value))

    lines = [sample.median.text(whole)]
    if len(sample) > 1:
        spread = "" if sample.std is None else f" {_unbroken(f'± {write(sample.std)}')}"
        lines.append(f"mean {sample.mean.text(whole)}{spread}")
        interval = sample.interval()
        if interval is not None and interval.low < interval.high:
            lines.append(f"{_unbroken('95 %')}: {interval.text(whole)}")
    return lines


def _unbroken(text: str) -> str:
    """A number with its unit, which no line is to break."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _cell(first: str, *rest: str) -> Markup:
    lines = Markup().join(Markup('<span class="second">{}</span>').format(line) for line in rest)
    return Markup("<td><span>{}</span>{}</td>").format(first, lines)
