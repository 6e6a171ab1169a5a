"""``grokscope list``: what there is to run."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from grokscope.cli.console import OUT, Json, print_json

if TYPE_CHECKING:
    from grokscope.experiments.catalogue import Entry

_WIDE = 110  # columns from which the page of the results has room beside the title
PAPERS = {
    "grokalign": "GrokAlign (Walker et al. 2025)",
    "rich-regime": "Delays in generalization (Zheng et al. 2024)",
}


def list_experiments(as_json: Json = False) -> None:
    """List every experiment, what it shows and its duration."""
    from grokscope.experiments.catalogue import entries

    found = entries()
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    wide = OUT.width >= _WIDE
    rows = {entry.name: _cells(entry, wide) for entry in found}
    head = ["experiment", "shows", "quick / paper", "results" if wide else "docs", "title"]
    widths = [max(map(len, column)) for column in zip(head, *rows.values(), strict=True)]
    OUT.print(Text(_line(head, widths), "bold"), no_wrap=True, overflow="ellipsis")
    for paper, group in groupby(found, key=lambda entry: entry.paper):
        name = PAPERS.get(paper, paper) or "Further experiments"
        OUT.print(Text(name, "dim"))
        for entry in group:
            # A line each: what is too long for the window is the title, which stands last.
            line = Text(_line(rows[entry.name], widths))
            OUT.print(line, no_wrap=True, overflow="ellipsis")
    OUT.print(
        "\nTimes are for one seed on two cores; `--json` tells whole titles and pages of\n"
        "results. To run one: `grokscope run NAME`, `grokscope reproduce grokalign/fig7`."
    )


def _cells(entry: Entry, wide: bool) -> list[str]:
    figures = entry.figures
    shown = ", ".join(figures[:1]) + (f" +{len(figures) - 1}" if len(figures) > 1 else "")
    page = entry.recorded.rpartition("/")[2].removesuffix(".md")
    known = page if wide else "yes" if page else ""
    return [f"  {entry.name}", shown, _times(entry.duration), known, entry.title]


def _times(duration: dict[str, str]) -> str:
    """The times of the presets, with one unit where they have the same.

    Example:
        >>> _times({"quick": "3 min", "paper": "15 min"})
        '3 / 15 min'
        >>> _times({"quick": "1 min", "paper": "2 h"})
        '1 min / 2 h'
    """
    parts = [text.rpartition(" ") for text in duration.values()]
    if len({unit for _, _, unit in parts}) == 1 and all(" " not in time for time, _, _ in parts):
        return f"{' / '.join(time for time, _, _ in parts)} {parts[0][2]}"
    return " / ".join(duration.values())


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
