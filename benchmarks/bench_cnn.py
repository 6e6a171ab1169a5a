"""What the Jacobian penalty adds to a training step of convolutional networks, on one thread.

Run it: python benchmarks/bench_cnn.py [--rounds N]. It prints a table and writes
benchmarks/results/cnn.json. Three chains of layers, each also as a network that nothing but
autograd can look into, and a ResNet-18 of width 16 with BatchNorm in training mode, which is no
chain. Networks and batches, of 256 images of 32 x 32 and for the ResNet of 64, are channels last.
Every variant trains a network of its own; the variants take turns, one step each, and each value is
the median over the rounds, as a multiple of the plain step's. Time is the process's CPU time.
Memory that is freed is kept, as in `grokscope run`: to ask for its pages anew costs a plain step
less than one with the penalty, and depends on what else the process holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import grokscope as gs
import resnet
from bench_grokalign import medians
from grokscope.runs.environment import environment

RESULT = Path(__file__).parent / "results" / "cnn.json"
BATCH = 256
WIDER = {"widths": [16, 16, 32, 32, 64, 64]}
SIZES: dict[str, dict[str, Any] | None] = {
    "8 to 32 channels, stride": {"widths": [8, 8, 16, 16, 32, 32]},
    "8 to 32 channels, max pooling": {"widths": [8, 8, 16, 16, 32, 32], "downsample": "max"},
    "16 to 64 channels, stride": WIDER,
    "ResNet-18, BatchNorm": None,
}
# at most so many plain steps
GOALS = {"chain": 2.6, "chain, a quarter of the examples": 1.6, "no chain": 3.1}


class Opaque(nn.Module):
    """A network that nothing but autograd can look into."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """What the network inside returns."""
        return self.inner(x)


def variants(batch: int = BATCH) -> dict[str, tuple[bool, gs.GrokAlign | None]]:
    """By name: whether the network is a chain, and the penalty."""
    return {
        "plain": (True, None),
        "chain": (True, gs.GrokAlign()),
        "chain, a quarter of the examples": (True, gs.GrokAlign(examples=batch // 4)),
        "no chain": (False, gs.GrokAlign()),
        "no chain, a quarter of the examples": (False, gs.GrokAlign(examples=batch // 4)),
        "difference": (False, gs.GrokAlign(estimator="difference")),
    }


def without_chain() -> dict[str, tuple[bool, gs.GrokAlign | None]]:
    """Those of a network that is no chain, on a quarter of the batch."""
    wanted = ("plain", "no chain", "no chain, a quarter of the examples", "difference")
    return {name: how for name, how in variants(BATCH // 4).items() if name in wanted}


def training(
    is_chain: bool, grokalign: gs.GrokAlign | None, size: dict[str, Any] | None
) -> Callable[[], None]:
    """A function that takes the next step of one's own loop; without a size, of the ResNet."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1024, 3, 32, 32, generator=generator)
    targets = nn.functional.one_hot(torch.arange(1024) % 10, 10).float()
    model: nn.Module
    if size is None:
        model, batch = resnet.ResNet18(16), BATCH // 4
    else:
        network = gs.CNN((3, 32, 32), out_features=10, hidden=[128], bias=False, seed=0, **size)
        model, batch = network if is_chain else Opaque(network), BATCH
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
    if grokalign is not None:
        grokalign.start(model)

    def step() -> None:
        chosen = torch.randperm(1024, generator=generator)[:batch]
        x = images[chosen].contiguous(memory_format=torch.channels_last)
        loss = nn.functional.mse_loss(model(x), targets[chosen])
        if grokalign is not None:
            loss = loss + grokalign(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    kept = gs.keep_freed_memory()
    multiples, plain = {}, {}
    for name, size in SIZES.items():
        chosen = variants() if size else without_chain()
        steps = {variant: training(*how, size) for variant, how in chosen.items()}
        found = medians(steps, rounds, steps_a_turn=1)
        plain[name] = round(1e3 * found["plain"], 2)
        multiples[name] = {v: round(t / found["plain"], 3) for v, t in found.items()}
    table = Table("multiples of a plain step", *SIZES, "goal", title="one thread")
    for variant in variants():
        values = [f"{m[variant]:.2f}" if variant in m else "" for m in multiples.values()]
        table.add_row(variant, *values, f"{GOALS[variant]}" if variant in GOALS else "")
    Console().print(table)
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": environment("cpu", [])["processor"],
        "rounds": rounds,
        "clock": "process CPU time",
        "freed memory": "kept" if kept else "given back",
        "goals": GOALS,
        "milliseconds_of_a_plain_step": plain,
        "multiple_of_plain": multiples,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
