"""What GrokAlign adds to a training step: MLP 784-200-200-10, batch 200, AdamW, one thread.

Run it: python benchmarks/bench_grokalign.py [--rounds N]. It prints a table and writes
benchmarks/results/grokalign.json. Every variant trains a network of its own; the variants take
turns, four steps each, and each figure is the median over the rounds, as a multiple of the plain
step's. Time is the process's CPU time, so that other programs' share of the core is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import grokscope as gs
from grokscope.methods import Method, Networks
from grokscope.methods.base import Loss
from grokscope.runs.environment import environment
from grokscope.training import TrainingSettings
from grokscope.training.fit import steps_of

RESULT = Path(__file__).parent / "results" / "grokalign.json"
STEPS_A_TURN = 4


class DoubleBackward(Method):
    """The same penalty as autograd alone has it, on the training forward pass."""

    def perturb(self, step: int, networks: Networks, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        """The inputs, of which the outputs are to be differentiated."""
        return x.requires_grad_()

    def penalty(self, step: int, networks: Networks, x: Tensor, outputs: Tensor) -> Tensor:
        """The squared norm of one row of the Jacobian, scaled to that of all."""
        directions = torch.randn_like(outputs)
        directions = directions / directions.norm(dim=2, keepdim=True)
        (rows,) = torch.autograd.grad(outputs, x, directions, create_graph=True)
        return 1e-3 * outputs.shape[2] * rows.square().sum(2).mean(1)


def variants() -> dict[str, list[Method]]:
    return {
        "plain": [],
        "double backward": [DoubleBackward()],
        "GrokAlign": [gs.GrokAlign()],
        "GrokAlign, every=4": [gs.GrokAlign(every=4)],
        "GrokAlign, exact": [gs.GrokAlign(projections=None)],
    }


def training(methods: Sequence[Method], loss: str = "cross_entropy") -> Callable[[], None]:
    """A function that takes the next training step of ``fit``."""
    torch.manual_seed(0)
    images = torch.rand(1000, 784) * (torch.rand(1000, 784) < 0.2)
    labels = torch.randint(0, 10, (1000,))
    data = gs.Dataset("random", images, labels, images[:1], labels[:1], num_classes=10)
    model = gs.MLP(784, [200, 200], 10, seed=0)
    settings = TrainingSettings(
        lr=1e-3, weight_decay=0.01, batch_size=200, loss=loss, max_steps=100_000
    )
    take = steps_of([model], data, [0], [methods], settings, torch.device("cpu"))
    at = count(1)
    return lambda: take(next(at))


def medians(
    steps: Mapping[str, Callable[[], object]], rounds: int, steps_a_turn: int = STEPS_A_TURN
) -> dict[str, float]:
    """Median seconds of each step over the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-5, rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(steps_a_turn):
                step()
            if turn >= 0:
                seconds[name].append((time.process_time() - start) / steps_a_turn)
    return {name: statistics.median(times) for name, times in seconds.items()}


def report(steps: dict[str, Callable[[], None]], rounds: int, result: Path) -> None:
    """Measure, print a table and write the result."""
    torch.set_num_threads(1)
    found = medians(steps, rounds)
    ratios = {name: seconds / found["plain"] for name, seconds in found.items()}
    table = Table("training step", "ms", "multiple of plain", title="784-200-200-10, batch 200")
    for name, seconds in found.items():
        table.add_row(name, f"{1e3 * seconds:.2f}", f"{ratios[name]:.2f}")
    Console().print(table)
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": environment("cpu", [])["processor"],
        "rounds": rounds,
        "steps_a_turn": STEPS_A_TURN,
        "clock": "process CPU time",
        "milliseconds": {name: round(1e3 * seconds, 3) for name, seconds in found.items()},
        "multiple_of_plain": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    report({name: training(methods) for name, methods in variants().items()}, rounds, RESULT)


if __name__ == "__main__":
    main()
