"""``grokscope report``: run directories in, one HTML page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grokscope.cli.console import OUT


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
) -> None:
    """Write one self-contained HTML page about runs, finished or not."""
    from grokscope.report import write_report

    OUT.print(f"Report: {write_report(runs, out)}", soft_wrap=True)
