"""``grokscope compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grokscope.cli.console import OUT, Json, note, print_json


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of sweeps.", metavar="RUN...")
    ],
    as_json: Json = False,
) -> None:
    """Show a table of runs side by side."""
    from grokscope.report import comparison_data, print_comparison
    from grokscope.runs import open_runs

    opened = open_runs(runs)
    for run in opened:
        for problem in run.problems:
            note(problem)
    if as_json:
        print_json(comparison_data(opened))
    else:
        print_comparison(opened, OUT)
