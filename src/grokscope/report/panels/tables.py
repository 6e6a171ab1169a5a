"""Tables: values that an experiment computed, and steps and time to a target over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from grokscope.findings.panels import PanelError, Published, ResultTable, TimeToTarget
from grokscope.findings.statistics import SeedValues
from grokscope.findings.target import Unit
from grokscope.report.panels.drawing import Context, Drawing, NothingToDraw
from grokscope.report.wording import NOTHING, count, duration, number, percent, ratio, target_value


def draw_table(panel: ResultTable, context: Context) -> list[Drawing]:
    """A table of rows of results.json."""
    rows = _rows(context.result(panel.results), panel.results)
    if not rows:
        raise NothingToDraw(f"results.json has no rows in {panel.results!r}")
    fields = list(dict.fromkeys(name for _, row in rows for name in row))
    wanted = panel.columns if panel.columns is not None else fields
    headings = wanted if isinstance(wanted, dict) else {name: name for name in wanted}
    unknown = [name for name in headings if name not in fields]
    if unknown:
        raise PanelError(
            f"columns: {panel.results} has no {unknown[0]!r}; it has {', '.join(fields)}"
        )
    return [
        Drawing(
            title=panel.title,
            caption=panel.caption,
            html=_table(panel, rows, headings),
            wide=panel.wide,
        )
    ]


def _table(
    panel: ResultTable, rows: list[tuple[str | None, Mapping[str, Any]]], headings: dict[str, str]
) -> Markup:
    named = any(name is not None for name, _ in rows)
    head = [panel.row_title or "Name"] if named else []
    lines = []
    for name, row in rows:
        cells = Markup().join(
            Markup("<td>{}</td>").format(_text(panel, field, row.get(field))) for field in headings
        )
        own = Markup('<th scope="row">{}</th>').format(name or "") if named else Markup()
        lines.append(Markup("<tr>{}{}</tr>").format(own, cells))
    return _framed(panel.title, [*head, *headings.values()], lines)


def _framed(title: str, headings: list[str], rows: list[Markup]) -> Markup:
    """A table that scrolls, with its title for those who do not see the heading above it."""
    heads = Markup().join(map(Markup('<th scope="col">{}</th>').format, headings))
    return Markup(
        '<div class="scroll" tabindex="0"><table class="values"><caption class="unseen">{}'
        "</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(title, heads, Markup("\n").join(rows))


def _text(panel: ResultTable, field: str, value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return percent(value) if field in panel.percent else number(value)
    return str(value)


def _rows(value: Any, name: str) -> list[tuple[str | None, Mapping[str, Any]]]:
    if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        return [(None, row) for row in value]
    if isinstance(value, Mapping):
        return [
            (str(row), entry if isinstance(entry, Mapping) else {"value": entry})
            for row, entry in value.items()
        ]
    raise PanelError(f"results: {name} is neither a list of mappings nor a mapping")


def draw_time_to_target(panel: TimeToTarget, context: Context) -> list[Drawing]:
    """A row for each arm: steps and time to the target, and the speedup over the baseline."""
    arms = [arm for arm in context.arms(panel.arms) if _seeds(context, arm)]
    if not arms:
        raise NothingToDraw("no training is over yet")
    for arm in panel.published:
        context.arms([arm])
    if panel.baseline not in context.run.arms:
        raise PanelError(f"baseline: this run has no arm {panel.baseline!r}")
    rows = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            context.run.arm_title(arm), Markup().join(_cells(panel, context, arm))
        )
        for arm in arms
    ]
    html = _framed(panel.title, _heads(panel), rows)
    return [Drawing(title=panel.title, caption=panel.caption, html=html, wide=panel.wide)]


def _heads(panel: TimeToTarget) -> list[str]:
    target = _unbroken(target_value(panel.metric, panel.target))
    heads = [
        "Condition",
        "Reached",
        f"Steps to {target}",
        "Speedup in steps",
        "Training time",
        "Speedup in time",
    ]
    if panel.since is not None:
        since = f"{_unbroken(target_value(panel.metric, panel.since))} to {target}"
        heads += [f"Time from {since}", f"Speedup from {since}"]
    return heads


def _cells(panel: TimeToTarget, context: Context, arm: str) -> list[Markup]:
    seeds = _seeds(context, arm)
    ours = [context.run.histories[arm, seed] for seed in seeds]
    steps = panel.goal.time_to(ours)
    published = panel.published.get(arm, Published())
    cells = [_cell(f"{steps.num_known} of {len(steps)}")]
    columns: list[tuple[Unit, float | None, float | None, Callable[[float], str]]] = [
        ("steps", None, published.steps, count),
        ("seconds", None, published.seconds, duration),
    ]
    if panel.since is not None:
        columns.append(("seconds", panel.since, published.since, duration))
    for unit, since, theirs, write in columns:
        cells.append(_cell(*_lines(panel.goal.time_to(ours, unit, since), write)))
        cells.append(_ratio(panel, context, arm, unit, since, theirs))
    return cells


def _ratio(
    panel: TimeToTarget,
    context: Context,
    arm: str,
    unit: Unit,
    since: float | None,
    published: float | None,
) -> Markup:
    both = [s for s in _seeds(context, arm) if s in _seeds(context, panel.baseline)]
    if arm == panel.baseline or not both:
        return _cell(NOTHING)
    ours, theirs = (
        panel.goal.time_to([context.run.histories[name, seed] for seed in both], unit, since)
        for name in (arm, panel.baseline)
    )
    lines = _lines(theirs.over(ours), lambda value: f"{ratio(value)} ×")
    return _cell(*lines, *([] if published is None else [f"paper: {published:g} ×"]))


def _seeds(context: Context, arm: str) -> list[int]:
    """The seeds whose training is over: of the others it is not known how they would end."""
    return [
        seed
        for seed in context.run.seeds(arm)
        if context.run.trial_status(arm, seed).get("state") == "finished"
    ]


def _lines(sample: SeedValues, write: Callable[[float], str]) -> list[str]:
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
