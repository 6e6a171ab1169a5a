"""Denormal numbers are zero in a training's steps, and nowhere else."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.methods import Method, Networks
from grokscope.training.denormals import flushed_denormals

loop = importlib.import_module("grokscope.training.loop")
TINY = torch.finfo(torch.float32).tiny


def flushes() -> bool:
    return float(torch.full((3,), TINY) / 2 @ torch.ones(3)) == 0


@pytest.fixture(autouse=True)
def _where_there_is_a_choice() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormal numbers")
    torch.set_flush_denormal(False)


def adam(eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], eps=eps)


def test_inside_they_are_zero_and_outside_as_the_user_has_it() -> None:
    with flushed_denormals(adam()):
        assert flushes()
    assert not flushes()
    with pytest.raises(KeyboardInterrupt), flushed_denormals(adam()):
        raise KeyboardInterrupt
    assert not flushes()
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals(adam()):
            assert flushes()
        assert flushes()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(("eps", "zero"), [(1e-8, True), (1e-12, True), (1e-15, False)])
def test_none_is_zero_where_eps_tells_them_apart(eps: float, zero: bool) -> None:
    with flushed_denormals(adam(eps)):
        assert flushes() == zero


class Smallest(Method):
    """Notes at each step whether denormals are zero, and once a gradient ends, all of them."""

    def __init__(self) -> None:
        self.flushed: set[bool] = set()

    def filter_gradients(self, step: int, networks: Networks) -> None:
        self.flushed.add(flushes())
        if step > 1:  # as of a unit that has died, or of a pixel that batches no longer have
            for parameter in networks.trained:
                assert parameter.grad is not None
                parameter.grad[0] = 0


def trained(monkeypatch: pytest.MonkeyPatch, flush: bool) -> tuple[Tensor, set[bool], set[bool]]:
    """The weights; whether denormals were zero in steps; and at evaluations."""
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    model, seen, evaluated = gs.MLP(4, [8], 3, seed=0), Smallest(), set[bool]()

    def note(row: dict[str, Any], seconds: float) -> None:
        evaluated.add(flushes())

    with monkeypatch.context() as patch:
        if not flush:
            patch.setattr(loop, "flushed_denormals", nullcontext)
        gs.fit(
            model, (x, torch.arange(16) % 3, x, torch.arange(16) % 3), methods=[seen],
            on_evaluation=note, lr=0.01, max_steps=1000, evaluate=[500], device="cpu",
        )  # fmt: skip
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return weights, seen.flushed, evaluated


def test_a_training_comes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # a first moment of a thousandth is denormal after 770 steps: 0.9^770 = 6e-36
    with_zeros, in_steps, at_evaluations = trained(monkeypatch, flush=True)
    assert (in_steps, at_evaluations) == ({True}, {False})
    exact, in_steps, at_evaluations = trained(monkeypatch, flush=False)
    assert (in_steps, at_evaluations) == ({False}, {False})
    assert torch.equal(with_zeros, exact)
