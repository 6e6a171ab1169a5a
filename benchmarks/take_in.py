"""Take trainings that were run by themselves into a recorded run: docs/results/runs/NAME.

Run it: python benchmarks/take_in.py NAME RUN..., with runs whose arms are among those of the
recorded run, in the same settings. Their rows, those measured after training and the tensors that
the report draws replace what is recorded of these trainings, and what the analysis of the second
paper's figures makes of rows is made anew; what it made of networks (probes, pictures) stays.
Then results_index.py and rich_results.py, as after keep_run.py.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from grokscope.experiments.analyses.representation import found_in_rows
from grokscope.runs import Run
from grokscope.runs.files import write_json
from grokscope.runs.rows import METRICS, TIMING, RowFile
from keep_run import KEPT, keep, rounded, write_rows
from records import environment_of


def take_in(kept: Path, runs: Sequence[Run], folder: Path) -> None:
    """Replace the recorded trainings of the runs' arms and seeds, in a folder emptied between.

    Raises:
        SystemExit: if an arm is not one of the record's, or was trained in other settings.
    """
    record = Run(kept)
    for run in runs:
        for arm in run.arms:
            _check_same(arm, record.spec["arms"], run.spec["arms"])
    status, env = record.status, record.env
    trials = list(product(record.arms, record.spec["seeds"]))

    def in_order(row: dict[str, Any]) -> int:
        return trials.index((row["arm"], row["seed"]))

    for run in runs:
        keep(run, folder)
        for name in (METRICS, TIMING):
            own, old = (RowFile(where / name).read() for where in (folder, kept))
            others = [row for row in old if (row["arm"], row["seed"]) not in run.trials]
            write_rows(kept / name, sorted([*others, *own], key=in_order))
        for part in ("after_training", "arrays"):
            for source in (folder / part).glob("*/*"):
                target = kept / source.relative_to(folder)
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        status["trials"] |= run.status["trials"]
        env.setdefault("parts", []).append(_origin(run))
    states = [status["trials"].get(f"{arm}/seed-{seed}", {}).get("state") for arm, seed in trials]
    status["state"] = "finished" if set(states) == {"finished"} else "interrupted"
    write_json(kept / "status.json", status)
    write_json(kept / "env.json", env)
    if record.spec["analysis"] == "representation":
        write_json(kept / "results.json", record.results | rounded(found_in_rows(Run(kept))))


def _check_same(arm: str, recorded: dict[str, Any], own: dict[str, Any]) -> None:
    if arm not in recorded:
        raise SystemExit(f"{arm}: the record has the arms {', '.join(recorded)}")
    ours, theirs = (
        {**spec[arm], "training": {**spec[arm]["training"], "compile": None}}  # how, not what
        for spec in (own, recorded)
    )
    if differing := [key for key in ours if ours[key] != theirs.get(key)]:
        raise SystemExit(f"{arm}: {', '.join(differing)} differs from the record")


def _origin(run: Run) -> dict[str, Any]:
    """Which trainings came from a run of their own, and where it was made."""
    trials = [f"{arm}/seed-{seed}" for arm, seed in run.trials]
    return {"trials": trials, "device": run.env.get("device"), **environment_of(run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a folder of docs/results/runs")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    given = parser.parse_args()
    kept = KEPT / given.name
    take_in(kept, [Run(path) for path in given.runs], kept.with_suffix(".part"))
    shutil.rmtree(kept.with_suffix(".part"), ignore_errors=True)


if __name__ == "__main__":
    main()
