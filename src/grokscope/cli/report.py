"""``grokscope report``: run directories in, one HTML page out, and plots as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grokscope.cli.console import ERR, OUT, Json, print_json
from grokscope.cli.watch import watch


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of sweeps.", metavar="RUN...")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page [default: RUN/report.html; report.html for several].", metavar="FILE"
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Write each plot as a file into this folder too.", metavar="DIR"),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Of the plots: pdf, png, svg or csv [default: pdf].", metavar="NAME"
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--watch", help="Follow runs that train, here and on the page, to their end."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about runs, finished or not."""
    from grokscope.report import write_figures, write_report
    from grokscope.runs import RunError

    if file_format is not None and figures is None:
        raise ValueError("--format is of the plots: name a folder for them with --figures")
    console = ERR if as_json else OUT
    page = watch(runs, out, console) if follow else write_report(runs, out)
    written: list[Path] = []
    for run in runs if figures is not None else []:
        # Several runs have plots of the same titles: a folder for each keeps them apart.
        assert figures is not None
        folder = figures if len(runs) == 1 else figures / run.resolve().name
        try:
            written += write_figures(run, folder, file_format or "pdf")
        except ModuleNotFoundError as error:
            raise RunError(str(error)) from error
    if as_json:
        print_json({"report": str(page), "figures": [str(path) for path in written]})
        return
    OUT.print(f"Report: {page}", soft_wrap=True)
    if figures is not None:
        OUT.print(f"Figures: {len(written)} in {figures}", soft_wrap=True)
