"""Every figure and table of both papers: what was run and how many claims held.

Run it: python benchmarks/results_index.py [RUN...]. With run directories, their verdicts join
docs/results/claims.json, an entry for each experiment and preset, which replaces an earlier one.
docs/results/README.md is written from that file and the experiments of the package; with --check
nothing is written, and the exit status is 1 where the page is not what would be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grokscope.experiments.catalogue import Entry, entries, shipped
from grokscope.experiments.yaml_files import read_yaml
from grokscope.runs import Run
from records import RESULTS, judged, table_row, write_record

PAPERS = {
    "grokalign": "GrokAlign (Walker et al. 2025)",
    "rich-regime": "Delays in generalization match delayed changes in representational geometry "
    "(Zheng et al. 2024)",
}
HEAD = (
    "| | experiment | preset | seeds | steps | claims that held | did not | open | claims it makes "
    "now | page |\n" + "|---" * 10 + "|"
)
INTRODUCTION = (
    "# All figures and tables: what was run, and how many claims held\n\n"
    "Each row is a recorded run of an experiment that reproduces a figure or table. A claim is a "
    "statement with a bound that a run can miss; the page behind the last link says which did not "
    "hold and why. Where an experiment makes other claims now than when its run was recorded, the "
    "numbers differ: it is to be run again. An experiment without a recorded run stands there "
    "with a dash.\n\n"
    "`benchmarks/results_index.py` writes this page from [claims.json](claims.json), which holds "
    "every claim with its verdict.\n"
)


def entry_of(run: Run) -> dict[str, Any]:
    """What a run directory says: what was run, and the verdict on each claim."""
    arms = run.spec["arms"]
    return {
        "experiment": run.spec["name"],
        "preset": run.spec["preset"],
        "seeds": len(run.spec["seeds"]),
        "state": run.state,
        "steps": sorted(
            {int(run.history(arm, seed).steps[-1]) for arm in arms for seed in run.seeds(arm)}
        ),
        "grokscope": run.env["grokscope"],
        "started": run.env["started"][:10],
        "claims": judged(run),
    }


def page(recorded: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: for each paper a table, a row for each figure and recorded run."""
    found = entries()
    parts = [INTRODUCTION]
    for paper, title in PAPERS.items():
        parts.append(f"## {title}\n\n{HEAD}")
        rows = [
            (figure, entry) for entry in found if entry.paper == paper for figure in entry.figures
        ]
        lines = [
            line
            for figure, entry in sorted(rows, key=lambda row: (_place(row[0]), row[1].name))
            for line in _lines(figure, entry, recorded)
        ]
        parts[-1] += "\n" + "\n".join(lines) + "\n"
    others = [entry for entry in found if not entry.paper]
    parts.append(f"## Further experiments\n\n{HEAD}")
    parts[-1] += "\n" + "\n".join(line for entry in others for line in _lines("", entry, recorded))
    return "\n".join(parts) + "\n"


def _lines(figure: str, entry: Entry, recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    runs = [run for run in recorded.values() if run["experiment"] == entry.name]
    link = ""
    if entry.recorded:
        target = entry.recorded.removeprefix("docs/")
        target = target.removeprefix("results/") if "results/" in target else f"../{target}"
        link = f"[page]({target})"
    now = len(read_yaml(shipped()[entry.name]).get("claims") or ())
    return [
        table_row([_words(figure), f"`{entry.name}`", *cells, str(now), link])
        for cells in [_cells(run) for run in runs] or [["-"] * 6]
    ]


def _cells(run: Mapping[str, Any]) -> list[str]:
    states = Counter(claim["state"] for claim in run["claims"])
    steps = run["steps"]
    length = "none" if not steps else f"{steps[0]:,}"
    if len(steps) > 1:
        length += f" to {steps[-1]:,}"
    preset = run["preset"] + ("" if run["state"] == "finished" else f" ({run['state']})")
    counts = [str(states[state]) for state in ("held", "not held", "open")]
    return [preset, str(run["seeds"]), length, *counts]


def _words(figure: str) -> str:
    """The name of a figure in words: Figure 2 for ``fig2``."""
    for short, long in (("fig", "Figure "), ("table", "Table ")):
        if figure.startswith(short):
            return long + figure.removeprefix(short)
    return figure.capitalize()


def _place(figure: str) -> tuple[bool, bool, int, str]:
    """Figures by number, those of the appendix after them, then tables, then the rest."""
    digits = "".join(filter(str.isdigit, figure))
    return (not figure.startswith("fig"), "A" in figure, int(digits or 0), figure)


def read_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """What a folder's claims.json has recorded."""
    record = folder / "claims.json"
    return json.loads(record.read_text()) if record.exists() else {}


def update(folder: Path, new: Sequence[dict[str, Any]]) -> None:
    """Record what further runs say in a folder's claims.json, and write its page."""
    recorded = read_entries(folder)
    recorded |= {f"{entry['experiment']} ({entry['preset']})": entry for entry in new}
    recorded = dict(sorted(recorded.items()))
    write_record(folder / "claims.json", recorded)
    (folder / "README.md").write_text(page(recorded))


def main() -> None:
    """Add runs to the record and write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where stale")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where claims.json is")
    arguments = parser.parse_args()
    if not arguments.check:
        update(arguments.folder, [entry_of(Run(path)) for path in arguments.runs])
        return
    target = arguments.folder / "README.md"
    if not target.exists() or target.read_text() != page(read_entries(arguments.folder)):
        sys.exit(f"{target} is stale: run python benchmarks/results_index.py")


if __name__ == "__main__":
    main()
