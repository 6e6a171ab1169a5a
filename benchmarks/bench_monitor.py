"""What one row of a monitor with its default measures costs on a ResNet-18, in training steps.

Run it: python benchmarks/bench_monitor.py [--rounds N]. It prints a table and writes
benchmarks/results/monitor.json. The network has width 16 and 10 outputs; images are 32 x 32; a
training step (AdamW) takes a batch of 64, the monitor has 64 probe points. One thread; step, row,
exact row and a row that is handed to a second process take turns, and each value is a median over
the rounds of this process's CPU time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

import grokscope as gs
from bench_grokalign import medians
from grokscope.runs.environment import environment
from resnet import ResNet18

RESULT = Path(__file__).parent / "results" / "monitor.json"
SIZE, WARM_UP = 64, 20
GOAL = 4.0  # training steps
SHOWN = ("jacobian_norm", "jacobian_alignment", "row_alignment", "jacobian_pc1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ResNet18()
    x, y = torch.randn(SIZE, 3, 32, 32), torch.arange(SIZE) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    row, exact = (gs.Monitor(model, (x, y), exact=exact) for exact in (False, True))
    found, reference = row.measure(0), exact.measure(0)
    late = gs.Monitor(model, (x, y), schedule=1, asynchronous=True)
    late.step(0)  # starts the process
    work: dict[str, Callable[[], object]] = {
        "step": step,
        "row": lambda: row.measure(0),
        "exact row": lambda: exact.measure(0),
        "row elsewhere": late.step,
    }
    seconds = medians(work, rounds, steps_a_turn=1)
    steps = {name: seconds[name] / seconds["step"] for name in list(work)[1:]}
    late.close()

    table = Table("what", "value", title="ResNet-18 of width 16, one thread")
    table.add_row("training step, batch 64", f"{1e3 * seconds['step']:.0f} ms")
    table.add_row("row, 64 probe points", f"{steps['row']:.2f} steps (goal {GOAL:g})")
    table.add_row("exact row", f"{steps['exact row']:.2f} steps")
    table.add_row("row in a second process", f"{steps['row elsewhere']:.2f} steps of this one")
    for name in SHOWN:
        table.add_row(f"{name}, exact", f"{found[name]:.4g}, {reference[name]:.4g}")
    Console().print(table)
    record = {
        "torch": torch.__version__,
        "processor": environment("cpu", [0])["processor"],
        "threads": 1,
        "rounds": rounds,
        "milliseconds_a_step": round(1e3 * seconds["step"], 1),
        "steps_a_row": {name: round(value, 2) for name, value in steps.items()},
        "jacobian_points": found["jacobian_points"],
        "means": {name: round(found[name], 4) for name in SHOWN},
        "exact_means": {name: round(reference[name], 4) for name in SHOWN},
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
