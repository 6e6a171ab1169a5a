"""GrokAlign's Figure 10 from run directories: docs/results/feature-learning.json.

Run it: python benchmarks/feature_results.py RUN..., with runs of mnist-lazy-or-rich or
mnist-lazy-or-rich-published. An entry for each experiment has what its analysis found (the verdicts
on claims are in claims.json, which results_index.py writes); entries of experiments that are not
given stay. A table is printed, to paste.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from grokscope.runs import Run
from records import RESULTS, environment_of, rounded, spread, table_row, write_record

RESULT = RESULTS / "feature-learning.json"


def entry(run: Run) -> dict[str, Any]:
    """What is recorded of a run."""
    return {
        "preset": run.spec["preset"],
        "seeds": run.spec["seeds"],
        "environment": environment_of(run),
        **rounded(run.results),
    }


def table(found: dict[str, Any]) -> str:
    """The scales in rows: norm of the initial centroid and the largest alignment, over seeds."""
    lines = ["| | 1 / norm of the initial centroid | largest alignment |", "|---|---|---|"]
    arms = list(dict.fromkeys(point["arm"] for point in found["points"]))
    for arm in arms:
        own = [point for point in found["points"] if point["arm"] == arm]
        columns = ("reciprocal_norm", "max_alignment")
        cells = [spread([point[name] for point in own]) for name in columns]
        lines.append(table_row([arm, *cells]))
    return "\n".join(lines)


def main() -> None:
    """Write the record and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    record = json.loads(RESULT.read_text())
    for path in parser.parse_args().runs:
        run = Run(path)
        found = record["experiments"][run.spec["name"]] = entry(run)
        print(table(found))
    write_record(RESULT, record)


if __name__ == "__main__":
    main()
