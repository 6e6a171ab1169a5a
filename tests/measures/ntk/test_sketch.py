"""Kernels from random directions against the exact ones."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.ntk import sketch
from grokscope.measures.ntk.sketch import SketchedKernel, _signs
from tests.measures.ntk.models import build

Reduction = Literal["full", "trace", "sum"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
@pytest.mark.parametrize("name", ["mlp", "residual", "transformer", "raw parameters", "frozen"])
def test_it_is_off_by_its_standard_error(name: str, reduce: Reduction) -> None:
    torch.manual_seed(0)
    model, x1, x2 = build(name)
    exact = gs.empirical_ntk(model, x1, x2, reduce)
    found = gs.empirical_ntk(model, x1, x2, reduce, sketch=300, generator=generator())
    assert found.kernel.shape == found.standard_error.shape == exact.shape
    # what the signs leave out of the error is a sum over few parameters
    known = found.standard_error > 1e-9 * exact.abs().max()
    deviations = ((found.kernel - exact) / found.standard_error)[known]
    assert 0.4 < float(deviations.square().mean().sqrt()) < 2.5  # entries move together
    assert float(deviations.abs().max()) < 6
    assert_close(found.kernel[~known], exact[~known])


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
def test_it_is_the_mean_over_its_directions_and_the_standard_error_of_that(
    monkeypatch: pytest.MonkeyPatch, reduce: Reduction
) -> None:
    torch.manual_seed(0)
    model, x1, x2 = build("mlp")
    monkeypatch.setattr(sketch, "_seed", lambda generator: 7)
    found = gs.empirical_ntk(model, x1, x2, reduce, sketch=9)
    chosen = dict(model.named_parameters())
    jacobians = []
    for x in (x1, x2):
        call = lambda p, x=x: torch.func.functional_call(model, p, (x,))  # noqa: E731
        jacobians.append(torch.func.jacrev(call)(chosen))
    products = []
    for seed in range(7, 16):  # one number of each side for each direction, then their products
        signs = _signs(chosen, seed)
        one, two = (
            sum(part.detach().flatten(2) @ signs[name].flatten() for name, part in own.items())
            for own in jacobians
        )
        product = torch.einsum("ai,bj->abij", one, two)
        if reduce == "trace":
            product = product.diagonal(dim1=2, dim2=3).mean(-1)
        elif reduce == "sum":
            product = product.sum((2, 3))
        products.append(product)
    stacked = torch.stack(products)
    assert_close(found.kernel, stacked.mean(0))
    assert_close(found.standard_error, stacked.std(0) / 9**0.5)


def test_the_mean_of_many_is_the_kernel_and_errors_fall_with_the_root_of_directions() -> None:
    torch.manual_seed(0)
    model, x, _ = build("mlp")
    exact = gs.empirical_ntk(model, x)
    few = [gs.empirical_ntk(model, x, sketch=25, generator=generator(s)) for s in range(40)]
    many = gs.empirical_ntk(model, x, sketch=1000, generator=generator(99))
    mean = torch.stack([each.kernel for each in few]).mean(0)
    spread = torch.stack([each.kernel for each in few]).std(0)
    said = torch.stack([each.standard_error for each in few]).square().mean(0).sqrt()
    assert float((mean - exact).norm() / exact.norm()) < 0.06
    assert_close(said.norm() / spread.norm(), torch.ones(()).double(), rtol=0.1, atol=0)
    ratio = float(said.norm() / many.standard_error.norm())
    assert 0.85 * 40**0.5 < ratio < 1.15 * 40**0.5


def test_parts_of_the_batch_and_of_the_parameters() -> None:
    torch.manual_seed(0)
    model, x1, x2 = build("residual")
    whole = gs.empirical_ntk(model, x1, x2, sketch=20, generator=generator())
    kernel, error = gs.empirical_ntk(model, x1, x2, sketch=20, generator=generator(), chunk_size=2)
    assert_close(whole, SketchedKernel(kernel, error))
    names = ["head.weight"]
    part = gs.empirical_ntk(model, x1, sketch=400, generator=generator(), parameters=names)
    exact = gs.empirical_ntk(model, x1, parameters=names)
    assert float((part.kernel - exact).norm() / exact.norm()) < 0.3
    assert_close(part.kernel[1, 2], part.kernel[2, 1].T)


def test_nothing_is_changed_and_bad_numbers_are_named() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)
    state = torch.get_rng_state()
    gs.empirical_ntk(model, x, sketch=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    for count in (0, 1, -3):
        with pytest.raises(ValueError, match="sketch must be 2 or more directions, or None"):
            gs.empirical_ntk(model, x, sketch=count)
    with pytest.raises(ValueError, match="generator is for sketch"):
        gs.empirical_ntk(model, x, generator=generator())
