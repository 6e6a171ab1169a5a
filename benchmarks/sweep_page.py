"""Memory and CPU seconds of the end of a sweep, where its summary and its page are made.

    python benchmarks/sweep_page.py --runs 2000

A few tiny runs are made and copied under other seeds until there are so many: to train them all
takes half an hour and changes nothing here. Then the command is given again. It finds all runs
finished, sums them up and writes the page, as it does at the end of a sweep. Beside it stands the
same with the few runs alone. Written to ``results/sweep_page.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_sweep_workers import SPEC
from grokscope.experiments.sweep import ProcessEngine, plan_sweep, work_through
from grokscope.runs.rows import METRICS, TIMING
from records import write_record

MADE = 4
RESULTS = Path(__file__).parent / "results" / "sweep_page.json"


def make(folder: Path) -> None:
    """A sweep of a few runs."""
    (folder / "tiny.yaml").write_text(SPEC)
    plan = plan_sweep(str(folder / "tiny.yaml"), num_seeds=MADE)
    plan.write(folder / "sweep")
    states = work_through(plan.jobs(folder / "sweep", "cpu", None, 1), ProcessEngine(1))
    assert all(state.state == "finished" for state in states.values()), states


def fill(folder: Path, runs: int) -> None:
    """Copy the runs until there are so many, each of a seed of its own."""
    tensors = shutil.ignore_patterns("checkpoints", "arrays")
    for seed in range(MADE, runs):
        place, before = folder / f"sweep/seed-{seed}", seed % MADE
        shutil.copytree(folder / f"sweep/seed-{before}", place, ignore=tensors)
        for name in (METRICS, TIMING):
            _replace(place / name, f'"seed": {before},', f'"seed": {seed},')
        _replace(place / "status.json", f'/seed-{before}"', f'/seed-{seed}"')
        _replace(place / "spec.yaml", f"seeds:\n- {before}\n", f"seeds:\n- {seed}\n")


def end_of_sweep(folder: Path, runs: int) -> dict[str, Any]:
    """The most memory and the CPU seconds of the command that finds all runs finished."""
    command = [sys.executable, "-m", "grokscope", "sweep", "tiny.yaml", "--out", "sweep", "--json"]
    command += ["--seeds", str(runs), "--device", "cpu"]
    with (folder / "found.json").open("wb") as found:
        process = subprocess.Popen(command, cwd=folder, stdout=found, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
    assert status == 0, status
    told = json.loads((folder / "found.json").read_text())["runs"]
    assert [of["state"] for of in told] == ["finished"] * runs
    return {
        "runs": runs,
        "MB at most": round(used.ru_maxrss / 1e3),
        "CPU seconds": round(used.ru_utime + used.ru_stime, 1),
        "MB of the page": round((folder / "sweep/report.html").stat().st_size / 1e6, 1),
    }


def _replace(file: Path, before: str, after: str) -> None:
    text = file.read_text("utf-8")
    assert before in text, file
    file.write_text(text.replace(before, after), "utf-8")


def main() -> None:
    """Measure both, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        make(Path(place))
        few = end_of_sweep(Path(place), MADE)
        fill(Path(place), given.runs)
        found = {"few": few, "many": end_of_sweep(Path(place), given.runs)}
    print(json.dumps(found, indent=2))
    write_record(RESULTS, found)


if __name__ == "__main__":
    main()
