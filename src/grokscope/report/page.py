"""One self-contained HTML page of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from grokscope._version import __version__
from grokscope.findings.panels import PanelError, panel_from
from grokscope.findings.summary import RunSummary, run_summary
from grokscope.report.comparison import comparison_columns, overlay, summary_table
from grokscope.report.default_panels import DEFAULT_PANELS
from grokscope.report.facts import (
    ArmFacts,
    arm_facts,
    common_settings,
    run_facts,
    spec_text,
    state_notice,
)
from grokscope.report.finding import Finding, Judgement, finding, judgement, time_sentences
from grokscope.report.panels import Context, Drawing, NothingToDraw, draw
from grokscope.report.plotting import css_color, marker_path
from grokscope.report.seeds import seed_rows, seed_table
from grokscope.report.templating import (
    content_policy,
    json_text,
    plotly_script,
    render,
    source,
)
from grokscope.report.wording import NOTHING
from grokscope.runs import Run, RunError, open_runs
from grokscope.runs.files import write_atomically

# Of all runs of a page together, before base64.
_PICTURE_BYTES = 2_000_000
_REGION_BYTES = 1_700_000


@dataclass(frozen=True)
class Section:
    """What the page says of one run."""

    run: Run
    summary: RunSummary
    finding: Finding
    time: list[str]
    notice: str
    judgements: list[Judgement]
    arms: list[ArmFacts]
    table: list[list[str]]
    over_seeds: list[list[str]]
    seed_arms: list[str]
    colors: dict[str, str]
    drawings: list[Drawing]
    complaints: list[str]
    common: dict[str, str]
    facts: dict[str, str]
    spec: str


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    refresh: int | None = None,
    plotly: str | None = None,
) -> Path:
    """Write one HTML page of runs, finished or not; it needs no network and no other file.

    Args:
        runs: run directories, or folders of sweeps; with several runs or settings, the page opens
            with a comparison.
        out: the file, or a folder for ``report.html``. By default ``report.html`` in the one
            folder named, or in the current folder for several.
        refresh: the page loads itself anew every this many seconds, as long as a run is going on;
            what was chosen on it stays.
        plotly: where ``vendor/plotly-cartesian.min.js`` of this package lies, relative to the page,
            for many pages that share it; by default the page holds it.

    Returns:
        The file written.

    Raises:
        RunError: if there is no run, one cannot be read, or the page cannot be written.
    """
    opened = open_runs(runs, lenient=True)
    if out is None:
        target = (Path(runs[0]) if len(runs) == 1 else Path()) / "report.html"
    else:
        target = Path(out) / "report.html" if Path(out).is_dir() else Path(out)
    try:
        # A path need not be text: what is none in it is shown as a question mark.
        write_atomically(target, page(opened, refresh, plotly).encode(errors="replace"))
    except (RunError, OSError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None)
        if reason is None:
            raise
        raise RunError(f"could not write {target}: {reason}; name another file") from error
    return target


def page(runs: Sequence[Run], refresh: int | None = None, plotly: str | None = None) -> str:
    """The page as text; see ``write_report`` for ``refresh`` and ``plotly``."""
    going_on = any(run.state == "running" for run in runs)
    arms = dict.fromkeys(arm for run in runs for arm in run.arms)
    colors = {arm: place for place, arm in enumerate(arms)}
    sections = [_section(run, colors, len(runs)) for run in runs]
    several = len(runs) > 1
    overlays = overlay(runs, colors) if several else []
    drawings = [*overlays, *(drawing for section in sections for drawing in section.drawings)]
    numbered = {id(drawing): f"d{place}" for place, drawing in enumerate(drawings)}
    data = {
        numbered[id(drawing)]: drawing.figure if drawing.figure is not None else drawing.data
        for drawing in drawings
        if drawing.figure is not None or drawing.data is not None
    }
    scripts = [source("regions.js") + source("runs.js") + source("report.js")]
    plotted = any(drawing.figure is not None for drawing in drawings)
    if plotted and plotly is None:
        scripts.insert(0, plotly_script())
    return render(
        "report.html.j2",
        title=f"{len(runs)} runs side by side" if several else sections[0].run.title,
        sections=sections,
        several=several,
        refresh=refresh if going_on else None,
        overlays=overlays,
        comparison=comparison_columns(runs) if several else [],
        row_keys=[
            f"{place}/{arm.arm}"
            for place, section in enumerate(sections)
            for arm in section.summary.arms
        ],
        name_of=lambda drawing: numbered[id(drawing)],
        css_color=css_color,
        marker_path=marker_path,
        nothing=NOTHING,
        style=Markup(source("report.css")),
        scripts=[Markup(script) for script in scripts],
        plotly=plotly if plotted else None,
        policy=content_policy(scripts, beside=plotted and plotly is not None),
        data=Markup(json_text(data)),
        version=__version__,
    )


def drawings_of(run: Run) -> list[Drawing]:
    """What the page draws of a run."""
    colors = {arm: place for place, arm in enumerate(run.arms)}
    return _drawings(Context(run, run_summary(run), colors))[0]


def _section(run: Run, colors: dict[str, int], num_runs: int) -> Section:
    summary = run_summary(run)
    context = Context(run, summary, colors, _PICTURE_BYTES // num_runs, _REGION_BYTES // num_runs)
    drawings, complaints = _drawings(context)
    over_seeds = seed_rows(summary)
    return Section(
        run=run,
        summary=summary,
        finding=finding(summary),
        time=time_sentences(summary),
        notice=state_notice(run),
        judgements=[judgement(verdict, run.state) for verdict in summary.verdicts],
        arms=arm_facts(run),
        table=summary_table(summary),
        over_seeds=seed_table(over_seeds),
        seed_arms=[entry.arm for entry in over_seeds],
        colors={arm: context.color(arm).removeprefix("@") for arm in run.arms},
        drawings=drawings,
        complaints=complaints,
        common=common_settings(run),
        facts=run_facts(run),
        spec=spec_text(run),
    )


def _drawings(context: Context) -> tuple[list[Drawing], list[str]]:
    """What can be drawn of a run, and what its spec asks for that cannot."""
    drawings: list[Drawing] = []
    complaints: list[str] = []
    own = context.run.spec.get("panels") or []
    for place, data in enumerate([*DEFAULT_PANELS, *own], 1 - len(DEFAULT_PANELS)):
        try:
            drawings += draw(panel_from(data), context)
        except (PanelError, RunError) as error:
            if place < 1 and isinstance(error, NothingToDraw):
                continue
            title = data.get("title") if isinstance(data, dict) else None
            complaints.append(f"{title or f'Panel {place}'} could not be drawn: {error}")
    return drawings, complaints
