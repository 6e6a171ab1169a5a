"""The report pages of recorded runs: those that ``docs/results/runs`` keeps, as the report now is.

They are written beside the built site, into ``reports/``; plotly.js, which is most of such a page,
lies there once for all of them. Titles, claims and panels are those that the experiment has today,
so that the page says what the figure's page says; settings, rows and results are the run's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RUNS = DOCS / "results/runs"
PLOTLY = "plotly-cartesian.min.js"
_WORDS = ("title", "description", "source", "claims", "panels")


def kept_runs() -> list[str]:
    """The runs that are kept: "EXPERIMENT-PRESET"."""
    return sorted(path.parent.name for path in RUNS.glob("*/spec.yaml"))


def open_kept(name: str) -> Any:
    """A kept run, with the words that its experiment has today."""
    from grokscope.experiments.catalogue import shipped
    from grokscope.experiments.yaml_files import read_yaml
    from grokscope.runs import Run

    run = Run(os.path.relpath(RUNS / name))
    path = shipped().get(run.spec["name"])
    if path is not None:
        run.spec = _reworded(run.spec, read_yaml(path))
    return run


def _reworded(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    titles = {name: arm.get("title") for name, arm in now.get("arms", {}).items()}
    arms = {
        name: {**arm, "title": titles.get(name) or arm.get("title", name)}
        for name, arm in recorded.get("arms", {}).items()
    }
    return {**recorded, **{word: now[word] for word in _WORDS if word in now}, "arms": arms}


def report_page(name: str, figures: Iterable[tuple[str, str]] = ()) -> str:
    """The page of a kept run, with links back to the pages of the figures that it is for.

    Args:
        name: the kept run.
        figures: title and address of each page to link to.
    """
    from grokscope.report.page import page

    links = ", ".join(f'<a href="{escape(to)}">{escape(title)}</a>' for title, to in figures)
    back = f'<p class="eyebrow">A recorded run of the documentation of grokscope: {links}</p>'
    text = str(page([open_kept(name)], plotly=PLOTLY))
    return text.replace("<main>", f"<main>\n{back}", 1)


def write_report_pages(folder: Path) -> None:
    """Write the pages of all kept runs, and the script that they share."""
    from figure_pages import PAPERS, figure_name, figures_shown_by

    from grokscope.report.templating import plotly_script

    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLOTLY).write_text(plotly_script(), encoding="utf-8")
    for name in kept_runs():
        links = [
            (f"{PAPERS[paper][0]}, {figure_name(figure)}", f"../figures/{paper}-{figure}.html")
            for paper, _, figure in (shown.partition("/") for shown in figures_shown_by(name))
        ]
        text = report_page(name, links or [("the first run", "../start.html")])
        (folder / f"{name}.html").write_text(text, encoding="utf-8")


def _after_build(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_report_pages(Path(app.outdir) / "reports")


def setup(app: Any) -> dict[str, bool]:
    """Write the pages when Sphinx has written its own."""
    app.connect("build-finished", _after_build)
    return {"parallel_read_safe": True}
