"""A training step of the papers' networks: by hand, compiled, through `fit`, and what is least.

Run it: python benchmarks/bench_training.py [--rounds N] [NETWORK ...]. It prints a table and writes
benchmarks/results/training.json, where networks that are not named stay as they are. One thread;
the ways take turns, some steps each; each value is the median over the rounds of this process's CPU
time for a step. The least is the time of a step's multiplications (PyTorch's own count) at the rate
of a product of two matrices of 2,048 rows, measured in the same turns. A step of `fit` is the
difference of two trainings of different length. Compiling is timed by the clock, with its
processes, until the first step is done.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import grokscope as gs
from bench_grokalign import medians
from records import write_timings

RESULT = Path(__file__).parent / "results" / "training.json"
SIDE = 2048
LONGER = 3  # so many more turns of steps has the longer of two trainings


@dataclass(frozen=True)
class Workload:
    """A network as its experiment trains it, on inputs of chance.

    Attributes:
        build: makes the network.
        examples: makes n inputs and labels.
        batch: examples of a step.
        steps: in a turn.
    """

    build: Callable[[], nn.Module]
    examples: Callable[[int], tuple[Tensor, Tensor]]
    batch: int
    steps: int


def images(*shape: int, classes: int = 10) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Inputs of a shape with labels in turn."""
    return lambda n: (torch.rand(n, *shape), torch.arange(n) % classes)


def pairs(n: int) -> tuple[Tensor, Tensor]:
    """Pairs modulo 113 with the sign of equality, and their sums."""
    a, b = torch.randint(113, (2, n))
    return torch.stack([a, b, torch.full_like(a, 113)], 1), (a + b) % 113


WORKLOADS = {
    "784-128-512-128-47": Workload(
        lambda: gs.MLP(784, [128, 512, 128], 47, seed=0), images(784, classes=47), 128, 100
    ),
    "784-200-200-10": Workload(lambda: gs.MLP(784, [200, 200], 10, seed=0), images(784), 200, 100),
    "CNN of Figure 5": Workload(
        lambda: gs.CNN((3, 32, 32), [16, 16, 32, 32, 64, 64], 10, hidden=[128], bias=False, seed=0),
        images(3, 32, 32),
        256,
        4,
    ),
    "transformer, p = 113": Workload(lambda: gs.Transformer(113, seed=0), pairs, 3_830, 4),
}


def by_hand(workload: Workload, compiled: bool = False) -> Callable[[], None]:
    """A function that takes the next step of a loop written by hand."""
    torch.manual_seed(0)
    model = workload.build()
    run = torch.compile(model, mode="reduce-overhead") if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x, y = workload.examples(4 * workload.batch)

    def step() -> None:
        chosen = torch.randperm(len(x))[: workload.batch]
        optimizer.zero_grad()
        F.cross_entropy(run(x[chosen]), y[chosen]).backward()
        optimizer.step()

    return step


def by_fit(workload: Workload, steps: int) -> Callable[[], None]:
    """Steps through `fit`, with its set-up and its first and last evaluation."""
    torch.manual_seed(0)
    model = workload.build()
    x, y = workload.examples(4 * workload.batch)
    few = x[:8], y[:8]

    def turn() -> None:
        gs.fit(
            model, (x, y, *few), batch_size=workload.batch, max_steps=steps, lr=1e-3,
            evaluate=[], device="cpu", progress=False,
        )  # fmt: skip

    return turn


def multiplications(workload: Workload) -> int:
    """Multiply-adds of the products of one step."""
    torch.manual_seed(0)
    model = workload.build()
    x, y = workload.examples(workload.batch)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(x), y).backward()
    return counter.get_total_flops() // 2


def measured(workload: Workload, rounds: int) -> dict[str, float]:
    """Milliseconds of a step, each way, and seconds of compiling."""
    hand, compiled = by_hand(workload), by_hand(workload, compiled=True)
    start = time.perf_counter()
    compiled()
    compiling = time.perf_counter() - start
    square = torch.rand(SIDE, SIDE)

    def in_turn(step: Callable[[], None]) -> None:
        for _ in range(workload.steps):
            step()

    ways: dict[str, Callable[[], object]] = {
        "by hand": partial(in_turn, hand),
        "compiled": partial(in_turn, compiled),
        "fit, short": by_fit(workload, workload.steps),
        "fit, long": by_fit(workload, (1 + LONGER) * workload.steps),
        "product": lambda: square @ square,
    }
    found = medians(ways, rounds, steps_a_turn=1)
    rate = SIDE**3 / found.pop("product")
    # what both lengths have in common, set-up and evaluations, is no step
    found["fit"] = (found.pop("fit, long") - found.pop("fit, short")) / LONGER
    result = {name: 1e3 * taken / workload.steps for name, taken in found.items()}
    result["least"] = 1e3 * multiplications(workload) / rate
    return {name: round(value, 3) for name, value in result.items()} | {
        "compiling, s": round(compiling, 1),
        "multiplications a second, 1e9": round(rate / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if unknown := set(options.networks) - set(WORKLOADS):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    results = json.loads(RESULT.read_text("utf-8"))["networks"] if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as cache:  # or what was compiled before would cost nothing
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name in options.networks or WORKLOADS:
            results[name] = measured(WORKLOADS[name], options.rounds)
    table = Table("network", "least", "by hand", "compiled", "fit", "compiling", title="ms a step")
    for name, found in results.items():
        least = found["least"]
        ways = [f"{found[w]:.2f} ({found[w] / least:.2f})" for w in ("by hand", "compiled", "fit")]
        table.add_row(name, f"{least:.2f}", *ways, f"{found['compiling, s']:.0f} s")
    Console(width=100).print(table)
    write_timings(RESULT, options.rounds, networks=results)


if __name__ == "__main__":
    main()
