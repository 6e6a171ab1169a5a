"""The commands in one place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from grokscope.cli import compare, data, listing, measure, report, reproduce, run, sweep
from grokscope.cli.console import fail
from grokscope.cli.interruption import take_interruption

_PATHS = ("--out", "--figures", "--data-dir")

app = typer.Typer(
    name="grokscope",
    help="See inside training: the geometry of a network while it learns.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("list")(listing.list_experiments)
app.command("reproduce")(reproduce.reproduce)
app.command("sweep")(sweep.sweep)
app.command("measure")(measure.measure)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("data")(data.data)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from grokscope._version import __version__

        typer.echo(f"grokscope {__version__}")
        raise typer.Exit


def _without_path(arguments: Sequence[str]) -> str | None:
    """The first option whose path is the empty text; as a ``Path`` it would be this folder."""
    for option, value in pairwise([*arguments, "."]):
        name, equals, text = option.partition("=")
        if name in _PATHS and not (text if equals else value):
            return name
    return None


def run_app() -> int:
    """Run what was typed, and return the exit code; mistakes in it are told here."""
    if (option := _without_path(sys.argv[1:])) is not None:
        return fail(f"{option} is empty: name a path, or . for the current folder")
    try:
        code = app(standalone_mode=False) or 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer brings its own copy of click, whose usage errors have no public name.
        if not hasattr(error, "format_message"):
            raise
        return fail(error.format_message())
    # Typer makes an exit code of an interruption
    if code == 130 and (first := take_interruption()):
        raise first
    return int(code)
