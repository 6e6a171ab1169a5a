"""GrokAlign attached to an optimizer gives the gradients of the penalty in the loss."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.guard import without_wrappers

BATCHES = [torch.randn(6, 5, generator=torch.Generator().manual_seed(i)) for i in range(8)]
LABELS = torch.arange(6) % 3


class TwoInputs(nn.Module):
    """A model of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.read = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.read(F.gelu(self.own(features * mask)))


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()


def by_the_loss(
    model: nn.Module, optimizer: Optimizer, method: gs.GrokAlign, micro: int, every: int = 1
) -> None:
    """The twin: the penalty in the loss of every micro-batch of the steps that have one."""
    for step, first in enumerate(range(0, len(BATCHES), micro), 1):
        optimizer.zero_grad()
        for x in BATCHES[first : first + micro]:
            loss = F.cross_entropy(model(x.double()), LABELS)
            if step % every == 0:
                loss = loss + every * method(model, x.double())
            (loss / micro).backward()
        optimizer.step()


def plainly(model: nn.Module, optimizer: Optimizer, micro: int) -> None:
    """The loop that knows of no penalty."""
    for first in range(0, len(BATCHES), micro):
        optimizer.zero_grad()
        for x in BATCHES[first : first + micro]:
            (F.cross_entropy(model(x.double()), LABELS) / micro).backward()
        model.eval()
        model(BATCHES[0].double())  # an evaluation in between is not trained on
        model.train()
        optimizer.step()


@pytest.mark.parametrize("build", [perceptron, smooth])
@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("every", [1, 2])
def test_the_steps_are_those_of_the_penalty_in_the_loss(
    build: Callable[[], nn.Module], micro: int, every: int
) -> None:
    models = build(), build()
    by_the_loss(
        models[0],
        SGD(models[0].parameters(), lr=0.1),
        gs.GrokAlign(0.1, projections=None),
        micro,
        every,
    )
    optimizer = SGD(models[1].parameters(), lr=0.1)
    method = gs.GrokAlign(0.1, projections=None, every=every).attach(models[1], optimizer)
    plainly(models[1], optimizer, micro)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(one, other, rtol=1e-11, atol=1e-13)
    assert method.state["steps"] == 8 // micro
    method.detach()
    before = method.state["steps"]
    plainly(models[1], optimizer, micro)
    assert method.state["steps"] == before


def test_without_strength_or_once_detached_nothing_changes() -> None:
    models = perceptron(), perceptron()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    gs.GrokAlign(0).attach(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        plainly(model, optimizer, 2)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_does_nothing(fused: bool) -> None:
    model = perceptron().float()
    twin = copy.deepcopy(model)
    x, skipped = BATCHES[1], BATCHES[0]
    optimizer = AdamW(model.parameters(), lr=0.01, fused=fused)
    gs.GrokAlign(0.1, projections=None).attach(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for batch, factor in ((skipped, torch.inf), (x, 1.0)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(batch), LABELS)
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(twin(x), LABELS)
    (loss + gs.GrokAlign(0.1, projections=None)(twin, x)).backward()
    AdamW(twin.parameters(), lr=0.01).step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_of_a_dictionary() -> None:
    torch.manual_seed(1)
    model = TwoInputs().double()
    twin = copy.deepcopy(model)
    batch = {"features": BATCHES[0].double(), "mask": (BATCHES[1] > 0).double()}
    view = gs.View(twin, lambda m, b: m(**b), wrt="features")
    (F.cross_entropy(twin(**batch), LABELS) + gs.GrokAlign(0.1, projections=None)(view, batch)
     ).backward()  # fmt: skip
    optimizer = SGD(model.parameters(), lr=0.0)
    # of two floating-point inputs a view says which the Jacobian is by
    seen = gs.View(model, lambda m, b: m(**b), wrt="features")
    gs.GrokAlign(0.1, projections=None).attach(seen, optimizer)
    F.cross_entropy(seen(batch), LABELS).backward()
    optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


def test_mistakes_are_named() -> None:
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer: got str"):
        gs.GrokAlign().attach(model, "adamw")
    method = gs.GrokAlign().attach(model, optimizer)
    with pytest.raises(ValueError, match="attached already"):
        method.attach(model, optimizer)


def _process(rank: int, path: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2
    )
    model = nn.parallel.DistributedDataParallel(smooth())
    optimizer = SGD(model.parameters(), lr=0.1)
    gs.GrokAlign(0.1, projections=None).attach(model, optimizer)
    F.cross_entropy(model(BATCHES[rank].double()), LABELS).backward()
    optimizer.step()
    torch.save(without_wrappers(model).state_dict(), f"{path}/{rank}.pt")
    torch.distributed.barrier()  # one that leaves first would end what the other still reads
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    twin = smooth()
    x, y = torch.cat(BATCHES[:2]).double(), torch.cat([LABELS, LABELS])
    loss: Any = F.cross_entropy(twin(x), y) + gs.GrokAlign(0.1, projections=None)(twin, x)
    loss.backward()
    SGD(twin.parameters(), lr=0.1).step()
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, expected in twin.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        assert_close(states[0][name], expected, rtol=1e-11, atol=1e-13)
