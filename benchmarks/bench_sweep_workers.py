"""CPU seconds of a tiny run in a sweep: in a worker that takes run after run, and in its own.

    python benchmarks/bench_sweep_workers.py --runs 5

Each way the same runs are made one after another by one worker; the second way it is ended after
each run. CPU time of the children, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grokscope.experiments.sweep import Job, ProcessEngine, plan_sweep, work_through

SPEC = """
name: tiny
title: Tiny
threads: 1
data: {name: digits, train_size: 50}
model: {widths: [8]}
training: {max_steps: 20}
monitor: {measures: [weight_norm]}
arms: {one: }
"""


class OneEach(ProcessEngine):
    """A process for each run, as it was before there were workers."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin to work on jobs, each by a new process."""
        self.stop()
        super().start(jobs)


def cpu_seconds(engine: ProcessEngine, folder: Path, runs: int) -> float:
    """CPU seconds of all children for a sweep of so many runs."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(SPEC)
    plan = plan_sweep(str(folder / "tiny.yaml"), num_seeds=runs)
    plan.write(folder / "sweep")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    states = work_through(plan.jobs(folder / "sweep", "cpu", None, 1), engine)
    assert all(state.state == "finished" for state in states.values()), states
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure both ways and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, engine in (("one worker", ProcessEngine(1)), ("a process each", OneEach(1))):
            found[name] = cpu_seconds(engine, Path(folder) / name, runs) / runs
    ratio = found["a process each"] / found["one worker"]
    shown = {f"{name}, CPU seconds a run": round(of, 2) for name, of in found.items()}
    print(json.dumps({"runs": runs, **shown, "ratio": round(ratio, 1)}, indent=2))


if __name__ == "__main__":
    main()
