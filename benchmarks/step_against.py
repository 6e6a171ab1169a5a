"""What a training step costs in this checkout over what it costs in another one.

Run it: python benchmarks/step_against.py OTHER [--rounds N] [--shapes SHAPE...], where OTHER is a
checkout of another commit. Two processes, one for each, take turns with the same training; only one
of them works at a time. It prints a table and writes benchmarks/results/step.json: ratios of the
medians over the turns of a step's CPU time on one thread, which leaves other programs' share of the
core out, though not what they do to its caches: on a busy machine a commit against itself comes to
1.03.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "step.json"
WARM_UP, STEPS = 10, 100
SHAPES = {"64-128-128-10": (64, [128, 128]), "784-200-200-10": (784, [200, 200])}
METHODS = ("plain", "GrokAlign", "Grokfast", "OrthoGrad", "GradientNoise", "AdversarialTraining")


def worker() -> None:
    """Answer each line, "shape method", with the CPU seconds that a step of it took."""
    import torch

    import grokscope as gs

    torch.set_num_threads(1)
    for line in sys.stdin:
        shape, method = line.split()
        in_features, widths = SHAPES[shape]
        torch.manual_seed(0)
        x = torch.rand(1000, in_features) * (torch.rand(1000, in_features) < 0.2)
        y = torch.randint(0, 10, (1000,))
        marks: list[float] = []

        def mark(_row: Any, _seconds: float, marks: list[float] = marks) -> None:
            marks.append(time.process_time())

        gs.fit(
            gs.MLP(in_features, widths, 10, seed=0),
            (x, y, x[:1], y[:1]),
            methods=[] if method == "plain" else [getattr(gs, method)()],
            batch_size=100,
            max_steps=WARM_UP + STEPS,
            evaluate=[WARM_UP],
            device="cpu",
            on_evaluation=mark,
        )
        print((marks[-1] - marks[-2]) / STEPS, flush=True)


def started(checkout: Path) -> subprocess.Popen[str]:
    """A process that measures the code of a checkout."""
    return subprocess.Popen(
        [sys.executable, __file__, "--worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"},
    )


def answer(process: subprocess.Popen[str], question: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    processes = {"other": started(arguments.other), "this": started(ROOT)}
    ratios: dict[str, dict[str, float]] = {}
    for shape in arguments.shapes:
        ratios[shape] = {}
        for method in METHODS:
            seconds: dict[str, list[float]] = {"other": [], "this": []}
            for turn in range(-1, arguments.rounds):
                for name, process in processes.items():
                    taken = answer(process, f"{shape} {method}")
                    if turn >= 0:
                        seconds[name].append(taken)
            medians = {name: statistics.median(times) for name, times in seconds.items()}
            ratios[shape][method] = round(medians["this"] / medians["other"], 3)
            print(f"{shape:15} {method:20} {ratios[shape][method]:.3f}", flush=True)
    for process in processes.values():
        process.terminate()
    record = {"against": commit(arguments.other), "rounds": arguments.rounds, "ratios": ratios}
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["--worker"] else main()
