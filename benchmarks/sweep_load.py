"""Many tiny runs in one sweep: runs a minute, the driver's memory, kills, and two drivers at once.

    python benchmarks/sweep_load.py --runs 2000 --minutes 60 --killed-runs 40 --kills 10

First a sweep of so many runs, interrupted when its minutes are over, beside some runs each in a
process of its own; then a smaller sweep whose driver or one of whose workers is killed while a run
is in its midst and started again; then two drivers on one folder. Every run has to have the rows of
the same run in a sweep that was left alone. Written to ``results/sweep_load.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_sweep_workers import SPEC, OneEach
from grokscope.experiments.sweep import plan_sweep, work_through
from grokscope.runs.files import read_json_object
from grokscope.runs.rows import METRICS
from grokscope.runs.side_files import STATUS
from grokscope.runs.sweep_folder import is_finished
from records import write_record

# seconds rather than a moment, so that kills come in mid-run
LONGER = SPEC.replace("max_steps: 20", "max_steps: 6000, checkpoint_seconds: 0.2")
RESULTS = Path(__file__).parent / "results" / "sweep_load.json"


class Sweep:
    """The command on a folder, as a user gives it.

    Args:
        folder: where the experiment's file and the sweep are.
        runs: how many seeds.
        workers: how many at the same time.
        spec: the experiment.
    """

    def __init__(self, folder: Path, runs: int, workers: int, spec: str = SPEC) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(spec)
        self.folder, self.runs, self.workers = folder, runs, workers

    def start(self) -> subprocess.Popen[bytes]:
        """Begin, or go on with it."""
        command = [sys.executable, "-m", "grokscope", "sweep", "tiny.yaml", "--out", "sweep"]
        command += ["--seeds", str(self.runs), "--workers", str(self.workers), "--device", "cpu"]
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said)

    def told(self) -> int:
        """How many runs the command has said are over: a line each, cheaper than to look."""
        said = (self.folder / "said.txt").read_bytes()
        return said.count(b"\nfinished ")

    def finished(self) -> int:
        """How many of its runs are."""
        place = self.folder / "sweep"
        return sum(is_finished(place / f"seed-{seed}") for seed in range(self.runs))

    def at_work(self, driver: int) -> list[int]:
        """The processes of a driver that are in the midst of a run, with rows of it written."""
        places = (self.folder / f"sweep/seed-{seed}" for seed in range(self.runs))
        begun = [at for at in places if (at / METRICS).exists() and not is_finished(at)]
        pids = {read_json_object(at / STATUS)["pid"] for at in begun}
        return [pid for pid in children(driver) if pid in pids]

    def rows(self) -> dict[int, bytes]:
        """What each run recorded."""
        found = (self.folder / f"sweep/seed-{seed}/metrics.jsonl" for seed in range(self.runs))
        return {seed: path.read_bytes() for seed, path in enumerate(found)}

    def resumed(self) -> int:
        """How many runs were begun more than once."""
        files = (self.folder / f"sweep/seed-{seed}/env.json" for seed in range(self.runs))
        return sum(bool(json.loads(path.read_text()).get("resumed")) for path in files)


def resident(pid: int) -> float:
    """The memory of a process in MB; 0 where it is over."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def load(folder: Path, runs: int, workers: int, minutes: float) -> dict[str, Any]:
    """Runs a minute, and the driver's memory while they go on and while it writes the report."""
    sweep = Sweep(folder, runs, workers)
    driver = sweep.start()
    begin = end = time.monotonic()
    memory: list[tuple[int, float]] = []
    while driver.poll() is None and time.monotonic() - begin < 60 * minutes:
        time.sleep(1)
        memory.append((sweep.told(), resident(driver.pid)))
        if memory[-1][0] < runs:
            end = time.monotonic()
    if driver.poll() is None:
        driver.send_signal(signal.SIGINT)
    driver.wait()
    done, taken = sweep.finished(), end - begin
    most = max(count for count, _ in memory)
    written = [of for count, of in memory if count >= runs and of > 0]
    quarters = [
        statistics.median(
            [of for count, of in memory if quarter * most <= 4 * count < (quarter + 1) * most]
        )
        for quarter in range(4)
    ]
    return {
        "runs": done,
        "asked for": runs,
        "workers": workers,
        "minutes": round(taken / 60, 2),
        "runs a minute": round(60 * done / taken, 1),
        "driver's memory, MB": {
            "by quarters of the runs": [round(of, 1) for of in quarters],
            "at most while the report is made": round(max(written), 1) if written else None,
        },
    }


def each_alone(folder: Path, runs: int) -> float:
    """Runs a minute where each has a process of its own, one after the other."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(SPEC)
    plan = plan_sweep(str(folder / "tiny.yaml"), num_seeds=runs)
    plan.write(folder / "sweep")
    begin = time.monotonic()
    work_through(plan.jobs(folder / "sweep", "cpu", None, 1), OneEach(1))
    return round(60 * runs / (time.monotonic() - begin), 1)


def killed(
    folder: Path, whole: dict[int, bytes], kills: int, draw: random.Random
) -> dict[str, Any]:
    """Kill the driver or a worker at random moments; what is lost, and what is done twice."""
    sweep = Sweep(folder, len(whole), 2, LONGER)
    driver, count = sweep.start(), {"driver": 0, "worker": 0}
    while sum(count.values()) < kills and sweep.finished() < sweep.runs:
        if driver.poll() is not None:
            driver = sweep.start()
        if not sweep.at_work(driver.pid):  # a kill of what is only starting would try nothing
            time.sleep(0.1)
            continue
        time.sleep(draw.uniform(0.0, 2.0))
        workers_now = sweep.at_work(driver.pid)
        if draw.random() < 0.5 or not workers_now:
            driver.kill()
            driver.wait()
            count["driver"] += 1
        else:
            os.kill(draw.choice(workers_now), signal.SIGKILL)
            count["worker"] += 1
    code = driver.wait()
    if code:  # runs whose worker was killed count as failed, and the same command takes them up
        code = sweep.start().wait()
    rows = sweep.rows()
    return {
        "runs": len(whole),
        "kills": count,
        "exit code": code,
        "finished": sweep.finished(),
        "resumed": sweep.resumed(),
        "with other rows": sum(rows[seed] != whole[seed] for seed in whole),
    }


def two_drivers(folder: Path, whole: dict[int, bytes]) -> dict[str, Any]:
    """The same command twice on one folder."""
    sweep = Sweep(folder, len(whole), 1, LONGER)
    drivers = [sweep.start()]
    while not (folder / "sweep" / "sweep.json").exists():
        time.sleep(0.1)
    drivers.append(sweep.start())
    codes = [driver.wait() for driver in drivers]
    rows = sweep.rows()
    status = [json.loads((folder / f"sweep/seed-{seed}/status.json").read_text()) for seed in whole]
    return {
        "runs": len(whole),
        "exit codes": codes,
        "processes that worked": len({of["pid"] for of in status}),
        "begun twice": sweep.resumed(),
        "with other rows": sum(rows[seed] != whole[seed] for seed in whole),
    }


def main() -> None:
    """Measure all three, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1, help="of the first sweep; then two")
    parser.add_argument("--alone", type=int, default=10, help="runs with a process each")
    parser.add_argument("--killed-runs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found: dict[str, Any] = {}
        many = load(folder / "many", given.runs, given.workers, given.minutes)
        alone = each_alone(folder / "alone", given.alone)
        _record(found, "load", {**many, "runs a minute, a process each": alone})
        plain = Sweep(folder / "plain", given.killed_runs, 2, LONGER)
        assert plain.start().wait() == 0, (plain.folder / "said.txt").read_text()
        whole, draw = plain.rows(), random.Random(given.seed)
        _record(found, "killed", killed(folder / "killed", whole, given.kills, draw))
        few = dict(list(whole.items())[:12])
        _record(found, "two drivers", two_drivers(folder / "two", few))


def _record(found: dict[str, Any], part: str, content: dict[str, Any]) -> None:
    """Keep a part when it is known, and say it."""
    found[part] = content
    print(json.dumps({part: content}, indent=2), flush=True)
    write_record(RESULTS, found)


if __name__ == "__main__":
    main()
