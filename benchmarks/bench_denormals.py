"""What numbers below 1.2e-38 cost a network that has memorized, and what `fit` saves.

Run it: GROKSCOPE_DATA=FOLDER python benchmarks/bench_denormals.py [--rounds N] [NAME ...]. It
prints a table and writes benchmarks/results/denormals.json. Networks of the experiments are trained
twice in the papers' settings, once with denormal numbers and once, as `fit` does, with zeros in
their place (`grokscope.training.denormals`), and go on in turns. Values are medians over the rounds
of the CPU time of a step on one thread; beside them, the share of the optimizer's moments that are
denormal, and the largest difference between the weights of the two.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import grokscope as gs
from bench_grokalign import medians
from grokscope.experiments import load_experiment
from grokscope.experiments.from_spec import build_method, build_model, load_dataset
from grokscope.training.denormals import flushed_denormals
from grokscope.training.fit import steps_of
from grokscope.training.settings import TrainingSettings
from records import write_timings

RESULT = Path(__file__).parent / "results" / "denormals.json"
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Case:
    """An arm of an experiment, how long it is trained before, and steps in a turn."""

    experiment: str
    arm: str
    before: int = 5000
    a_turn: int = 100


CASES = {
    "EMNIST, initialization scale 10": Case("rich-emnist", "weights-10"),
    "EMNIST, initialization scale 1": Case("rich-emnist", "weights-1"),
    "MNIST, cross-entropy": Case("mnist-grokking", "baseline"),
    "MNIST, cross-entropy, GrokAlign": Case("mnist-grokking", "grokalign"),
    "MNIST, squared error": Case("mnist-grokking-mse", "baseline"),
    "CIFAR-10, CNN": Case("cifar10-robustness", "baseline", before=1000, a_turn=4),
}


class Training:
    """A training of a case, with denormal numbers or zeros in their place."""

    def __init__(self, case: Case, zeros: bool) -> None:
        spec = load_experiment(case.experiment, preset="paper").arms[case.arm]
        data = load_dataset(spec.data, "float32", None)
        left_out = {"evaluate", "stop_at", "dtype", "compile"}
        settings = TrainingSettings.of(spec.training.model_dump(exclude=left_out), "fit")
        self.model: nn.Module = build_model(spec.model, data, seed=0)
        methods = [build_method(own.model_dump(), 0) for own in spec.methods]
        self._take = steps_of([self.model], data, [0], [methods], settings, torch.device("cpu"))
        self._zeros, self._step = zeros, 0

    def go(self, num_steps: int) -> None:
        """Take the next steps."""
        optimizer = self._take.__self__.state.optimizer  # type: ignore[attr-defined]
        with flushed_denormals(optimizer) if self._zeros else nullcontext():
            for _ in range(num_steps):
                self._step += 1
                self._take(self._step)

    def share(self) -> float:
        """The share of the optimizer's moments that are denormal."""
        state: dict[Any, dict[str, Any]] = self._take.__self__.state.optimizer.state  # type: ignore[attr-defined]
        moments = [own[name].abs() for own in state.values() for name in ("exp_avg", "exp_avg_sq")]
        count = sum(int(((m > 0) & (m < TINY)).sum()) for m in moments)
        return count / sum(m.numel() for m in moments)


def measured(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of a step, both ways."""
    both = {"denormal": Training(case, zeros=False), "zeros": Training(case, zeros=True)}
    for training in both.values():
        training.go(case.before)

    def turn(training: Training) -> Callable[[], None]:
        return lambda: training.go(case.a_turn)

    taken = medians({way: turn(of) for way, of in both.items()}, rounds, steps_a_turn=1)
    weights = [
        nn.utils.parameters_to_vector(of.model.parameters()).detach() for of in both.values()
    ]
    found = {way: round(1e3 * seconds / case.a_turn, 3) for way, seconds in taken.items()}
    return found | {
        "share denormal": round(both["denormal"].share(), 3),
        "largest difference": float((weights[0] - weights[1]).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gs.keep_freed_memory()
    results = json.loads(RESULT.read_text("utf-8"))["steps"] if RESULT.exists() else {}
    for name in options.names or CASES:
        results[name] = measured(CASES[name], options.rounds)
    table = Table("ms a step", "denormal", "zeros", "ratio", "denormal moments", "difference")
    for name, found in results.items():
        times = (f"{found[way]:.2f}" for way in ("denormal", "zeros"))
        ratio, share = found["zeros"] / found["denormal"], found["share denormal"]
        apart = f"{found['largest difference']:.1g}"
        table.add_row(name, *times, f"{ratio:.2f}", f"{share:.0%}", apart)
    Console(width=100).print(table)
    write_timings(RESULT, options.rounds, steps=results)


if __name__ == "__main__":
    main()
