"""The trainings that the cards of measures and methods are drawn from.

Digits: the setting of ``grokscope run digits-grokking``, 300 images and initialization scale 8, in
which a network fits its training images at once and generalizes thousands of steps later. Modular
addition: ``modular-addition`` with its quick preset's modulus, by a one-layer transformer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy

import grokscope as gs


@dataclass
class Trajectory:
    """Copies of a network over its training, and its accuracies there."""

    steps: list[int] = field(default_factory=list)
    networks: list[torch.nn.Module] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)


def digits() -> gs.Dataset:
    """300 training images, drawn from a seed, and the other 1,497 for the test."""
    return gs.load_data("digits", train_size=300, subset="seeded")


def digits_network() -> gs.MLP:
    """64-128-128-10 from initialization scale 8."""
    return gs.MLP(64, [128, 128], 10, weight_scale=8.0, seed=0)


def log_steps(last: int, per_decade: int) -> set[int]:
    """0, and steps spaced evenly in their logarithm."""
    count = int(per_decade * torch.tensor(float(last)).log10())
    return {0, last, *(round(10 ** (i / per_decade)) for i in range(count + 1))}


def digits_trajectory(penalty: Callable[..., torch.Tensor] | None, last: int) -> Trajectory:
    """A plain loop on the digits, with a penalty or without."""
    data, model = digits(), digits_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    batches, found = _batches(len(data.train_x), 200), Trajectory()
    wanted = log_steps(last, 6)
    for step in range(last + 1):
        if step in wanted:
            _keep(found, step, model, data)
        chosen = next(batches)
        x, y = data.train_x[chosen], data.train_y[chosen]
        loss = cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + penalty(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def modular_data() -> gs.Dataset:
    """Sums modulo 41 from 55 % of all pairs."""
    return gs.load_data(
        "modular", modulus=41, operation="add", encoding="tokens", equals=True, train_fraction=0.55
    )


def modular_trajectory(last: int) -> Trajectory:
    """A one-layer transformer on modular addition, full batch, weight decay 1."""
    data = modular_data()
    model = gs.Transformer(41, d_model=48, num_heads=4, d_mlp=192, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    wanted, found = log_steps(last, 6), Trajectory()
    for step in range(last + 1):
        if step in wanted:
            _keep(found, step, model, data)
        # a softmax in float32 cannot tell losses below 1e-7 apart
        loss = cross_entropy(model(data.train_x).double(), data.train_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
    return found


def _keep(found: Trajectory, step: int, model: torch.nn.Module, data: gs.Dataset) -> None:
    with torch.no_grad():
        train = (model(data.train_x).argmax(1) == data.train_y).double().mean()
        test = (model(data.test_x).argmax(1) == data.test_y).double().mean()
    found.steps.append(step)
    found.networks.append(copy.deepcopy(model))
    found.train_accuracy.append(float(train))
    found.test_accuracy.append(float(test))


def _batches(num_examples: int, size: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(num_examples, generator=generator)
        yield from (part for part in order.split(size) if len(part) == size)
