"""A bfloat16 network in channels-last memory: what float64 finds, within bfloat16's precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs

N, K = 9, 4
EPS = 2.0**-8  # the relative rounding error of bfloat16
CHANNELS_LAST = torch.channels_last


class Pooled(nn.Module):
    """A network that is no chain of layers: a branch around a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        return self.head((h + torch.tanh(self.inner(h))).mean((2, 3)))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 2, K),
    )


MODELS = {"chain": (chain, (3, 6, 8)), "branch": (Pooled, (3, 5, 7))}


def trio(name: str) -> list[tuple[nn.Module, Tensor]]:
    """The same numbers in bfloat16 and channels last, in float32, and in float64."""
    torch.manual_seed(0)
    build, shape = MODELS[name]
    x = torch.randn(N, *shape).to(torch.bfloat16, memory_format=CHANNELS_LAST)
    low = build().to(torch.bfloat16, memory_format=CHANNELS_LAST)
    return [
        (low, x),
        *((copy.deepcopy(low).to(kind).to(memory_format=torch.contiguous_format), x.to(kind))
          for kind in (torch.float32, torch.float64)),
    ]  # fmt: skip


def test_the_networks_lie_in_memory_as_the_test_says() -> None:
    (low, x), (_, plain), _ = trio("chain")
    assert x.is_contiguous(memory_format=CHANNELS_LAST)
    assert not x.is_contiguous()
    assert low[0].weight.is_contiguous(memory_format=CHANNELS_LAST)  # type: ignore[index]
    assert torch.equal(plain, x.float())


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_penalty_and_its_gradients(name: str, squared: bool) -> None:
    found = []
    for model, x in trio(name):
        penalty = gs.jacobian_penalty(model, x, projections=None, squared=squared)
        penalty.backward()
        gradients = [own.grad for own in model.parameters() if own.grad is not None]
        whole = torch.cat([own.double().flatten() for own in gradients])
        found.append((penalty.double().detach(), whole))
    for (value, gradient), room in zip(found[:2], (3 * EPS, 1e-5), strict=True):
        torch.testing.assert_close(value, found[2][0], rtol=room, atol=0)
        assert float((gradient - found[2][1]).norm()) <= room * float(found[2][1].norm())


@pytest.mark.parametrize("name", MODELS)
def test_a_row_of_the_monitor(name: str) -> None:
    rows = []
    for model, x in trio(name):
        monitor = gs.Monitor(model, probe=(x, torch.arange(N) % K), exact=True)
        row = monitor.step(0)
        assert row is not None
        rows.append(row)
    assert set(rows[0]) == set(rows[2])
    for row, room in zip(rows[:2], (4 * EPS, 1e-4), strict=True):
        for column, expected in rows[2].items():
            if column != "probe_accuracy":  # outputs that are nearly alike may change places
                scale = max(1.0, abs(expected)) if "alignment" in column else abs(expected)
                assert abs(row[column] - expected) <= room * scale, column


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
@pytest.mark.parametrize("name", MODELS)
def test_the_kernel(name: str, reduce: str) -> None:
    low, single, exact = (gs.empirical_ntk(model, x, reduce=reduce) for model, x in trio(name))
    assert low.dtype == torch.float32
    for kernel, room in ((low, EPS), (single, 1e-5)):
        assert float((kernel.double() - exact).norm()) <= room * float(exact.norm())


def test_measures_leave_dtype_and_memory_format_as_they_were() -> None:
    (model, x), *_ = trio("branch")
    before = {name: own.clone() for name, own in model.named_parameters()}
    gs.Monitor(model, probe=(x, torch.arange(N) % K)).step(0)
    gs.empirical_ntk(model, x)
    for name, own in model.named_parameters():
        assert own.dtype == torch.bfloat16
        assert torch.equal(own, before[name])
    assert model.stem.weight.is_contiguous(memory_format=CHANNELS_LAST)  # type: ignore[union-attr]
