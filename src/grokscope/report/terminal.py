"""Tables and verdicts for the terminal, readable at 80 columns and when piped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grokscope.findings.summary import RunSummary, run_summary
from grokscope.report.comparison import comparison_columns, summary_table
from grokscope.report.finding import finding, time_sentences
from grokscope.report.judgement import Judgement, judgement
from grokscope.report.seeds import seed_rows, seed_table, sweep_table
from grokscope.runs import Run, open_runs

_STYLES = {"held": "green", "not held": "red", "open": "yellow"}
_LABEL, _COLUMN, _GAP = 20, 13, 2


def print_summary(run: Run | Path, console: Console) -> None:
    """Print what a run found: a table of its arms, the finding in a sentence, the verdicts.

    Args:
        run: the run.
        console: where to print.

    Raises:
        RunError: if the run cannot be read.
    """
    run = (run if isinstance(run, Run) else Run(run)).lenient()
    summary = run_summary(run)
    found = finding(summary)
    if summary.arms:
        console.print(_table(_summary_rows(summary)))
    if over_seeds := seed_table(seed_rows(summary)):
        console.print(_table(over_seeds))
    _sentence(console, found.headline, "bold")
    for sentence in [*found.further, *time_sentences(summary)]:
        _sentence(console, sentence)
    if found.meaning:
        _sentence(console, found.meaning, "dim")
    if run.state not in ("finished", "running"):
        _sentence(console, f"The run is not complete, its state is: {run.state}", "yellow")
    if summary.verdicts:
        console.print()
    for verdict in summary.verdicts:
        console.print(_verdict_line(judgement(verdict, run.state)))
    for problem in summary.problems:
        _sentence(console, problem, "yellow")


def print_comparison(runs: Sequence[Run | Path], console: Console) -> None:
    """Print runs side by side: a column for each arm, a row for each thing worth comparing.

    Of the settings only those that differ are shown. Columns that do not fit the console go into
    a further table below.

    Args:
        runs: run directories.
        console: where to print.

    Raises:
        RunError: if there is none, or one of them cannot be read.
    """
    columns = comparison_columns(open_runs(runs, lenient=True))
    words = (word for column in columns for text in column.values() for word in text.split())
    width = min(max(_COLUMN, *map(len, words)), console.width - _LABEL - _GAP)
    across = max(1, (console.width - _LABEL) // (width + _GAP))
    for first in range(0, len(columns), across):
        part = columns[first : first + across]
        if first:
            console.print()
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
        table.add_column(width=_LABEL - _GAP, overflow="fold", style="dim")
        for _ in part:
            table.add_column(width=width, overflow="fold")
        for label in part[0]:
            table.add_row(Text(label), *(Text(column[label]) for column in part))
        console.print(table)


def print_sweep(runs: Sequence[Run], console: Console) -> None:
    """Print what a sweep found: the statistics of each setting over its seeds.

    Args:
        runs: the settings of the sweep, each a run of all its seeds.
        console: where to print.

    Raises:
        RunError: if one of them cannot be read.
    """
    runs = open_runs(runs, lenient=True)
    if len(runs) == 1:
        print_summary(runs[0], console)
        return
    summaries = {run.name: run_summary(run) for run in runs}
    if rows := sweep_table(list(summaries.values())):
        console.print(_table(rows))
    for run in runs:
        _sentence(console, f"{run.name}: {finding(summaries[run.name]).headline}")
        if run.state != "finished":
            _sentence(console, f"{run.name} is not complete: {run.state}", "yellow")


def _summary_rows(summary: RunSummary) -> list[list[str]]:
    head, *rows = summary_table(summary)
    return [[*head[:-1], "test"], *rows]


def _table(rows: list[list[str]]) -> Table:
    head, *body = rows
    table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP, 0, 0), pad_edge=False, show_edge=False)
    for header in head:
        table.add_column(Text(header), overflow="fold")
    for row in body:
        table.add_row(*map(Text, row), end_section=True)
    return table


def _sentence(console: Console, words: str, style: str = "") -> None:
    console.print(Text(words if words.endswith(".") else f"{words}.", style))


def _verdict_line(verdict: Judgement) -> Text:
    return Text.assemble(
        (f"{verdict.mark} {verdict.word}: ", _STYLES[verdict.state]),
        verdict.says,
        (f" [{verdict.measured}; claimed: {verdict.asked}]", "dim"),
    )
