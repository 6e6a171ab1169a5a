"""``grokscope compare``: runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from grokscope.cli.console import OUT


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of sweeps.", metavar="RUN...")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Show a table of runs side by side."""
    from grokscope.report import comparison_data, print_comparison
    from grokscope.runs import open_runs

    opened = open_runs(runs)
    if as_json:
        typer.echo(json.dumps(comparison_data(opened), indent=2))
    else:
        print_comparison(opened, OUT)
