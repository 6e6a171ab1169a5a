"""The commands in one place, and what becomes of a mistake: one line on stderr, exit code 2."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from grokscope.cli import compare, data, listing, report, reproduce, run, sweep
from grokscope.cli.console import fail

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


def main() -> None:
    """Run the command line."""
    from grokscope.runs.files import RunError

    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = fail("interrupted; what was recorded is kept, go on with --resume", 130)
    except (RunError, ValueError) as error:
        code = fail(str(error))
    except Exception as error:
        # Typer brings its own copy of click, whose usage errors have no public name.
        if not hasattr(error, "format_message"):
            raise
        code = fail(error.format_message())
    sys.exit(code or 0)
