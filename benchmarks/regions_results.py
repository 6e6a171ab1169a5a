"""GrokAlign's Figures 1 and 11 from run directories: docs/results/regions.json.

Run it: python benchmarks/regions_results.py RUN... of mnist-regions, mnist-regions-slices
or mnist-regions-published. An entry for each experiment has the ratios from memorization to
generalization and the metrics at every kept step of the first seed (the verdicts on claims are in
claims.json, which results_index.py writes); entries of experiments that are not given stay, and
NAME=RUN is an entry of another name. A table of the milestones is printed, to paste.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from grokscope.report.wording import number
from grokscope.runs import Run
from records import RESULTS, environment_of, rounded, table_row, write_record

RESULT = RESULTS / "regions.json"
ROWS = {
    "norm": "operator norm, mean",
    "norm_spread": "its standard deviation within the radius",
    "relative_spread": "the same relative to the norm",
    "local_complexity": "regions within the radius, mean",
    "cell_area": "area of the region that holds the image, median",
    "region_distance": "distance to the nearest boundary of a region, median",
    "decision_distance": "distance to the decision boundary, median",
    "density_data": "length of boundaries per area, around the images",
    "density_decision": "length of boundaries per area, along the decision boundary",
    "migration": "the latter over the former, slice by slice",
    "label_alignment": "cosine of image and Jacobian row of its label",
    "centroid_alignment": "cosine of image and centroid",
}


def entry(run: Run) -> dict[str, Any]:
    """What is recorded of a run."""
    return {
        "preset": run.spec["preset"],
        "seeds": run.spec["seeds"],
        "environment": environment_of(run),
        **rounded({name: run.results[name] for name in ("ratio", "trajectory")}),
    }


def table(run: Run) -> str:
    """The milestones of every arm as a table, the first seed."""
    columns = [
        (f"{run.arm_title(arm)}: {name}", row)
        for arm, reached in run.results["milestones"].items()
        for name, row in reached.items()
    ]
    lines = [
        table_row(["", *(title for title, _ in columns)]),
        "|---" * (1 + len(columns)) + "|",
    ]
    for name, words in {"step": "step", **ROWS}.items():
        cells = [number(row[name]) if name in row else "" for _, row in columns]
        lines.append(table_row([words, *cells]))
    return "\n".join(lines)


def main() -> None:
    """Write the record and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for text in parser.parse_args().runs:
        key, _, path = text.rpartition("=")
        run = Run(path)
        record[key or run.spec["name"]] = entry(run)
        print(table(run))
    write_record(RESULT, record)


if __name__ == "__main__":
    main()
