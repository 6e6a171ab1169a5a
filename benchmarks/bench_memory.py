"""What it costs that freed memory goes back to the system: `grokscope.keep_freed_memory`.

Run it: python benchmarks/bench_memory.py [--rounds N]. It prints a table and writes
benchmarks/results/memory.json. A training step of the papers' networks written by hand, and of the
convolutional one with GrokAlign, each in two processes on one thread, one of which keeps the memory
that it frees; the two take turns. Values are medians over the rounds of the CPU time of a step, of
its page faults, and the largest that the process was.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULT = Path(__file__).parent / "results" / "memory.json"
WARM_UP = 3
CHAIN = "CNN of Figure 5, GrokAlign"
WAYS = ("given back", "kept")


def step_of(name: str) -> tuple[Callable[[], None], int]:
    """A function that takes the next training step, and how many make a turn."""
    import bench_cnn
    from bench_training import WORKLOADS, by_hand

    if name == CHAIN:
        return bench_cnn.training(*bench_cnn.variants()["chain"], bench_cnn.WIDER), 4
    return by_hand(WORKLOADS[name]), WORKLOADS[name].steps


def worker(name: str, way: str) -> None:
    """Answer each line with the milliseconds and the page faults of a step."""
    import torch

    import grokscope as gs

    torch.set_num_threads(1)
    if way == "kept" and not gs.keep_freed_memory():
        raise SystemExit("no glibc here, or the environment says what malloc does")
    step, steps = step_of(name)
    for _ in range(WARM_UP):
        step()
    for _ in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        for _ in range(steps):
            step()
        taken, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "milliseconds": 1e3 * taken / steps,
            "page faults": (after.ru_minflt - before.ru_minflt) / steps,
            "largest, MB": after.ru_maxrss / 1000,
        }
        print(json.dumps(found), flush=True)


def measured(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """The medians of both ways."""
    command = [sys.executable, __file__, "--worker", name]
    workers = {
        way: subprocess.Popen(
            [*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for way in WAYS
    }
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, process in workers.items():
            assert process.stdin is not None
            assert process.stdout is not None
            print(file=process.stdin, flush=True)
            turns[way].append(json.loads(process.stdout.readline()))
    for process in workers.values():
        process.communicate()
    return {
        way: {key: round(statistics.median(turn[key] for turn in found), 2) for key in found[0]}
        for way, found in turns.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(*options.worker)
    from bench_training import WORKLOADS
    from records import write_timings

    results = {name: measured(name, options.rounds) for name in [*WORKLOADS, CHAIN]}
    table = Table("ms a step", *WAYS, "ratio", "page faults", "largest, MB")
    for name, found in results.items():
        back, kept = (found[way] for way in WAYS)
        table.add_row(
            name,
            f"{back['milliseconds']:.2f}",
            f"{kept['milliseconds']:.2f}",
            f"{kept['milliseconds'] / back['milliseconds']:.2f}",
            f"{back['page faults']:,.0f} / {kept['page faults']:,.0f}",
            f"{back['largest, MB']:,.0f} / {kept['largest, MB']:,.0f}",
        )
    Console(width=110).print(table)
    write_timings(RESULT, options.rounds, steps=results)
    return None


if __name__ == "__main__":
    main()
