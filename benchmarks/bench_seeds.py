"""What it costs to train many seeds as one, next to one after another, and whether it is the same.

Run it: python benchmarks/bench_seeds.py [--rounds N] [--device cuda] [--only steps|targets]. It
prints tables and writes benchmarks/results/seeds.json.

Cost: steps of S networks as one over the same steps of the S networks one after another, one
thread on a CPU. The two take turns, and each figure is the ratio of the medians over the rounds.
On a CPU time is the process's CPU time, so that other programs' share of the core is left out; on
a GPU it is wall time, and the cost of ten seeds in units of one is what counts.

Sameness: the experiment digits-grokking with three seeds, to 90 % test accuracy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import grokscope as gs
from grokscope.experiments import load_experiment
from grokscope.experiments.from_spec import load_dataset
from grokscope.experiments.runner import train
from grokscope.methods import Method
from grokscope.runs.environment import environment
from grokscope.training import TrainingSettings
from grokscope.training.device import synchronize
from grokscope.training.fit import steps_of

RESULT = Path(__file__).parent / "results" / "seeds.json"
STEPS = 4
EXAMPLES = 1000
BATCH = 200
SEEDS = (2, 5, 10)

Methods = Callable[[int], list[Method]]


def convolution(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 13 * 13, 10),
    )


def perceptron(*sizes: int) -> Callable[[int], nn.Module]:
    return lambda seed: gs.MLP(sizes[0], sizes[1:-1], sizes[-1], weight_scale=8.0, seed=seed)


NETWORKS: dict[str, tuple[int, Callable[[int], nn.Module]]] = {
    "20-32-32-2": (20, perceptron(20, 32, 32, 2)),
    "64-128-128-10": (64, perceptron(64, 128, 128, 10)),
    "784-200-200-10": (784, perceptron(784, 200, 200, 10)),
    "784-1000-10": (784, perceptron(784, 1000, 10)),
    "784-1000-1000-10": (784, perceptron(784, 1000, 1000, 10)),
    "convolution": (784, convolution),
}
METHODS: dict[str, Methods] = {
    "plain": lambda seed: [],
    "grokalign": lambda seed: [gs.GrokAlign(1e-3, seed=seed)],
    "grokfast": lambda seed: [gs.Grokfast()],
    "orthograd": lambda seed: [gs.OrthoGrad()],
    "adversarial": lambda seed: [gs.AdversarialTraining(seed=seed)],
    "gradient noise": lambda seed: [gs.GradientNoise(seed=seed)],
}


def workers(
    build: Callable[[int], nn.Module], inputs: int, methods: Methods, number: int, device: str
) -> dict[str, Callable[[], None]]:
    """Some steps of every network, together and apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, inputs, generator=generator)
    y = torch.arange(EXAMPLES) % (2 if inputs == 20 else 10)
    place = torch.device(device)
    data = gs.Dataset("random", x, y, x[:10], y[:10], int(y.max()) + 1).to(place, torch.float32)
    settings = TrainingSettings(lr=1e-3, weight_decay=0.01, batch_size=BATCH, max_steps=10**9)

    def steps(seeds: Sequence[int]) -> Callable[[int], None]:
        models = [build(seed) for seed in seeds]
        return steps_of(models, data, seeds, [methods(seed) for seed in seeds], settings, place)

    everyone = steps(range(number))
    each = [steps([seed]) for seed in range(number)]
    at, alone = count(1), count(1)

    def together() -> None:
        for _ in range(STEPS):
            everyone(next(at))

    def one_after_another() -> None:
        begin = next(alone)
        for own in each:
            for step in range(STEPS):
                own((begin - 1) * STEPS + step + 1)

    return {"together": together, "apart": one_after_another}


def medians(work: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each, taken in turns; the first round warms up."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-1, rounds):
        for name, run in work.items():
            synchronize(torch.device(device))
            begin = clock()
            run()
            synchronize(torch.device(device))
            if turn >= 0:
                taken[name].append(clock() - begin)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def costs(networks: list[str], rounds: int, device: str, console: Console) -> dict[str, Any]:
    """Together over apart for every network, method and number of seeds."""
    found: dict[str, Any] = {}
    table = Table("network", "method", *(f"{s} seeds" for s in SEEDS), title="together over apart")
    for network in networks:
        inputs, build = NETWORKS[network]
        usual = network in ("64-128-128-10", "784-200-200-10")
        for method in METHODS if usual else ["plain", "grokalign"]:
            row = {}
            for number in SEEDS if usual else SEEDS[-1:]:
                seconds = medians(
                    workers(build, inputs, METHODS[method], number, device), rounds, device
                )
                row[str(number)] = {
                    "together_over_apart": round(seconds["together"] / seconds["apart"], 3),
                    "together_over_one": round(number * seconds["together"] / seconds["apart"], 2),
                }
            found[f"{network}, {method}"] = row
            ratios = [row.get(str(s), {}).get("together_over_apart") for s in SEEDS]
            cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            table.add_row(network, method, *cells)
            console.print(f"{network}, {method}: {cells}", soft_wrap=True)
    console.print(table)
    return found


def targets(device: str, console: Console) -> dict[str, Any]:
    """Steps to 90 % test accuracy of digits-grokking, each seed alone and among the others."""
    experiment = load_experiment(
        "digits-grokking",
        settings=["training.stop_at={metric: test_accuracy, target: 0.9}", "monitor.measures=[]"],
        num_seeds=3,
    )
    found: dict[str, Any] = {}
    for arm, spec in experiment.arms.items():
        data = load_dataset(spec.data, spec.training.dtype, None)
        place = torch.device(device)
        together = train(spec, data, experiment.seeds, place, vectorize=True)
        apart = train(spec, data, experiment.seeds, place, vectorize=False)
        found[arm] = {
            "together": [result.steps for result in together],
            "apart": [result.steps for result in apart],
            "largest_difference_of_test_accuracy_in_500_steps": max(
                difference(one, other) for one, other in zip(together, apart, strict=True)
            ),
        }
        console.print(arm, found[arm])
    return found


def difference(one: gs.FitResult, other: gs.FitResult) -> float:
    rows = int((other.history.steps <= 500).sum())
    ours, theirs = (result.history["test_accuracy"][:rows] for result in (one, other))
    return float(abs(ours - theirs).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--only", choices=["steps", "targets"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    record: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    key = "cpu" if options.device == "cpu" else torch.cuda.get_device_name()
    part = record.setdefault(key, {})
    part |= {
        "torch": torch.__version__,
        "processor": environment("cpu", [0])["processor"],
        "threads": 1,
    }
    if options.only != "targets":
        part["rounds"] = options.rounds
        networks = options.networks or list(NETWORKS)
        found = costs(networks, options.rounds, options.device, console)
        part["steps"] = {**part.get("steps", {}), **found}
    if options.only != "steps":
        part["targets"] = targets(options.device, console)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
