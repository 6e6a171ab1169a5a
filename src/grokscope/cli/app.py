"""The commands in one place."""

from __future__ import annotations

from typing import Annotated

import typer

from grokscope.cli import compare, data, listing, measure, report, reproduce, run, sweep
from grokscope.cli.console import fail
from grokscope.cli.interruption import take_interruption

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


def run_app() -> int:
    """Run what was typed, and return the exit code; mistakes in it are told here."""
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
