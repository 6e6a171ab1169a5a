"""What each method adds to a training step: MLP 784-200-200-10, batch 200, AdamW, one thread.

Run it: python benchmarks/bench_methods.py [--rounds N]. It prints a table and writes
benchmarks/results/methods.json. Every method trains a network of its own, in the order in which
grokscope's loop calls its hooks; the rest is as in bench_grokalign.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import grokscope as gs
from bench_grokalign import report
from grokscope.methods import Method

RESULT = Path(__file__).parent / "results" / "methods.json"


Loss = Callable[..., torch.Tensor]


def variants() -> dict[str, tuple[list[Method], Loss]]:
    plain = nn.functional.cross_entropy
    return {
        "plain": ([], plain),
        "StableMax": ([], gs.stablemax_cross_entropy),
        "GrokAlign": ([gs.GrokAlign()], plain),
        "GrokAlign, every=4": ([gs.GrokAlign(every=4)], plain),
        "Grokfast": ([gs.Grokfast()], plain),
        "Grokfast, ma of 100": ([gs.Grokfast("ma")], plain),
        "OrthoGrad": ([gs.OrthoGrad()], plain),
        "AdversarialTraining, noise": ([gs.AdversarialTraining()], plain),
        "AdversarialTraining, gradient": ([gs.AdversarialTraining(kind="gradient")], plain),
        "GradientNoise": ([gs.GradientNoise()], plain),
    }


def training(
    methods: list[Method], loss_function: Callable[..., torch.Tensor]
) -> Callable[[], None]:
    """A function that takes the next training step."""
    torch.manual_seed(0)
    images = torch.rand(1000, 784) * (torch.rand(1000, 784) < 0.2)
    labels = torch.randint(0, 10, (1000,))
    model = gs.MLP(784, [200, 200], 10, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    for method in methods:
        method.start(model)
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        chosen = torch.randint(0, 1000, (200,))
        x, y = images[chosen], labels[chosen]
        for method in methods:
            x = method.perturb(steps, model, x, y, loss_function)
        outputs = model(x)
        loss = loss_function(outputs, y)
        for method in methods:
            penalty = method.penalty(steps, model, x, outputs)
            loss = loss if penalty is None else loss + penalty
        optimiser.zero_grad()
        loss.backward()
        for method in methods:
            method.filter_gradients(steps, model)
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    report({name: training(*variant) for name, variant in variants().items()}, rounds, RESULT)


if __name__ == "__main__":
    main()
