"""Tables and verdicts for the terminal, readable at 80 columns and when piped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from grokscope.findings.summary import run_summary
from grokscope.report.comparison import comparison_columns, summary_table
from grokscope.report.finding import Judgement, finding, judgement, time_sentences
from grokscope.report.seeds import seed_rows, seed_table, sweep_table
from grokscope.runs import Run, open_runs

_STYLES = {"held": "green", "not held": "red", "open": "yellow"}
_LABEL, _COLUMN, _GAP = 18, 13, 2
_WORDS = re.compile(r"[\d.,]+ (?:%|steps|s|min|h)(?!\S)|\S+")


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
        head, *rows = summary_table(summary)
        console.print(_table([[*head[:-1], "test"], *rows], console.width))
    if over_seeds := seed_table(seed_rows(summary)):
        console.print(_table(over_seeds, console.width))
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
    labels = max(_LABEL, _longest_word(columns[0]))
    width = max(_COLUMN, _longest_word(text for column in columns for text in column.values()))
    across = (console.width - labels) // (_GAP + width)
    if not across:
        for column in columns:
            label, *others = column
            console.print(_block([label, *others], list(column.values())))
        return
    for first in range(0, len(columns), across):
        part = columns[first : first + across]
        if first:
            console.print()
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
        table.add_column(width=labels, overflow="fold", style="dim")
        for _ in part:
            table.add_column(width=width, overflow="fold")
        for label in part[0]:
            cells = (Text(_wrapped(column[label], width)) for column in part)
            table.add_row(Text(label), *cells)
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
        console.print(_table(rows, console.width))
    for run in runs:
        _sentence(console, f"{run.name}: {finding(summaries[run.name]).headline}")
        if run.state != "finished":
            _sentence(console, f"{run.name} is not complete: {run.state}", "yellow")
        for problem in summaries[run.name].problems:
            _sentence(console, f"{run.name}: {problem}", "yellow")


def _table(rows: list[list[str]], width: int) -> RenderableType:
    """The rows as a table; where it would break words at this width, a block for each row."""
    head, *body = rows
    widths = _widths([list(column) for column in zip(*rows, strict=True)], width)
    if widths is None:
        return Group(*(_block(head, row) for row in body))
    # A box has a column of its own between two others.
    padding = (0, _GAP - 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False)
    for header, own in zip(head, widths, strict=True):
        table.add_column(Text(_wrapped(header, own)), width=own, overflow="fold")
    for row in body:
        cells = (Text(_wrapped(cell, own)) for cell, own in zip(row, widths, strict=True))
        table.add_row(*cells, end_section=True)
    return table


def _widths(columns: list[list[str]], width: int) -> list[int] | None:
    """How wide each column is in a table of a width; None where a word would have to break."""
    least = [_longest_word(column) for column in columns]
    wanted = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    spare = width - sum(least) - _GAP * (len(columns) - 1)
    if spare < 0:
        return None
    widths = list(least)
    # Columns that want little more get it whole, the others share what is left.
    order = sorted(range(len(columns)), key=lambda place: wanted[place] - least[place])
    for done, place in enumerate(order):
        more = min(wanted[place] - least[place], spare // (len(order) - done))
        widths[place] += more
        spare -= more
    return widths


def _longest_word(cells: Iterable[str]) -> int:
    return max((len(word) for cell in cells for word in _WORDS.findall(cell)), default=0)


def _wrapped(cell: str, width: int) -> str:
    """A cell in lines of a width, broken between words, a number with its unit being one."""
    lines = []
    for line in cell.split("\n"):
        lines.append("")
        for word in _WORDS.findall(line):
            longer = f"{lines[-1]} {word}".lstrip()
            if len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    return "\n".join(lines)


def _block(head: list[str], row: list[str]) -> Text:
    title, *cells = (cell.replace("\n", ", ") for cell in row)
    lines = [f"  {name}: {cell}" for name, cell in zip(head[1:], cells, strict=True)]
    return Text("\n").join([Text(title, "bold"), *map(Text, lines), Text()])


def _sentence(console: Console, words: str, style: str = "") -> None:
    console.print(Text(words if words.endswith(".") else f"{words}.", style))


def _verdict_line(verdict: Judgement) -> Text:
    return Text.assemble(
        (f"{verdict.mark} {verdict.word}: ", _STYLES[verdict.state]),
        verdict.says,
        (f" [{verdict.measured}; claimed: {verdict.asked}]", "dim"),
    )
