"""Kernels from random directions against the exact ones."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.ntk import sketch
from grokscope.measures.ntk.sketch import SketchedKernel, _signs
from tests.measures.ntk.models import build

Reduction = Literal["full", "trace", "sum"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimates(
    model: nn.Module, x1: Tensor, x2: Tensor, reduce: Reduction, seeds: range, only: str = ""
) -> Tensor:
    """The estimate of each direction, from whole Jacobians: its products, then their reduction."""
    chosen = {n: p for n, p in model.named_parameters() if p.requires_grad and only in n}
    jacobians = []
    for x in (x1, x2):
        call = lambda p, x=x: torch.func.functional_call(model, p, (x,))  # noqa: E731
        jacobians.append(torch.func.jacrev(call)(chosen))
    products = []
    for seed in seeds:
        signs = _signs(chosen, seed)
        one, two = (
            sum(
                part.detach().reshape(*part.shape[:2], -1) @ signs[n].flatten()
                for n, part in own.items()
            )
            for own in jacobians
        )
        product = torch.einsum("ai,bj->abij", one, two)
        if reduce == "trace":
            product = product.diagonal(dim1=2, dim2=3).mean(-1)
        elif reduce == "sum":
            product = product.sum((2, 3))
        products.append(product)
    return torch.stack(products)


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
@pytest.mark.parametrize("name", ["mlp", "residual", "transformer", "raw parameters", "frozen"])
def test_it_is_the_mean_over_its_directions_and_the_standard_error_of_that(
    monkeypatch: pytest.MonkeyPatch, name: str, reduce: Reduction
) -> None:
    torch.manual_seed(0)
    model, x1, x2 = build(name)
    monkeypatch.setattr(sketch, "_seed", lambda generator: 7)
    found = gs.empirical_ntk(model, x1, x2, reduce, sketch=9)
    expected = estimates(model, x1, x2, reduce, range(7, 16))
    assert found.kernel.shape == gs.empirical_ntk(model, x1, x2, reduce).shape
    assert_close(found.kernel, expected.mean(0))
    assert_close(found.standard_error, expected.std(0) / 9**0.5)


def test_directions_are_independent_signs() -> None:
    """Then the mean of an estimate is the kernel: E r r^T is the identity."""
    chosen = {"a": nn.Parameter(torch.zeros(40, 25)), "b": nn.Parameter(torch.zeros(300))}
    drawn = torch.stack(
        [torch.cat([part.flatten() for part in _signs(chosen, s).values()]) for s in range(400)]
    )
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn.abs(), torch.ones_like(drawn))
    # r r^T: ones on its diagonal, beside it means of 400 signs, of standard deviation 1/20. The
    # largest of n such is about sqrt(2 ln n) of them: 5.3 of 845,000; 6.5 has odds of 1 in 15,000.
    products = (drawn.T @ drawn / len(drawn)).fill_diagonal_(0)
    assert float(products.abs().max()) < 6.5 / 20
    # the sum of squares of 845,000 such has a relative deviation of sqrt(2 / 845,000) = 0.0015
    assert float(products.square().sum()) == pytest.approx(1300 * 1299 / 400, rel=0.01)


def test_errors_are_those_of_random_signs() -> None:
    """For signs r, Var <a, r><b, r> = |a|^2 |b|^2 + <a, b>^2 - 2 sum a_i^2 b_i^2."""
    torch.manual_seed(0)
    model, x, _ = build("mlp")
    chosen = dict(model.named_parameters())
    call = lambda p: torch.func.functional_call(model, p, (x,))  # noqa: E731
    jacobian = torch.func.jacrev(call)(chosen)
    rows = torch.cat([part.detach().flatten(2) for part in jacobian.values()], dim=2).flatten(0, 1)
    gram, squares, fourth = rows @ rows.T, rows.square().sum(1), rows.square() @ rows.square().T
    n, k = jacobian["0.bias"].shape[:2]
    variance = (torch.outer(squares, squares) + gram.square() - 2 * fourth).view(n, k, n, k)
    expected = variance.transpose(1, 2)  # (n, n, k, k)
    few = [gs.empirical_ntk(model, x, sketch=25, generator=generator(s)) for s in range(40)]
    many = gs.empirical_ntk(model, x, sketch=1000, generator=generator(99))
    said = torch.stack([each.standard_error for each in few]).square().mean(0)
    # A variance from 1,000 products has a relative deviation of sqrt((kurtosis - 1) / 1000), and
    # a product of two normal numbers has a kurtosis of 9 at most where they are independent, of 15
    # where they are one: 0.09 to 0.12, less over entries that do not all move together.
    for squares_said in (25 * said, 1000 * many.standard_error.square()):
        assert float(squares_said.sum() / expected.sum()) == pytest.approx(1, abs=0.1)
    exact = gs.empirical_ntk(model, x)
    mean = torch.stack([each.kernel for each in few]).mean(0)
    # of 1,000 directions: the mean square of what it is off by, in its own variance, is one
    for off in (mean - exact, many.kernel - exact):
        assert float(off.square().sum()) < 2 * float(expected.sum()) / 1000


def test_parts_of_the_batch_and_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x1, x2 = build("residual")
    whole = gs.empirical_ntk(model, x1, x2, sketch=20, generator=generator())
    kernel, error = gs.empirical_ntk(model, x1, x2, sketch=20, generator=generator(), chunk_size=2)
    assert_close(whole, SketchedKernel(kernel, error))
    names = ["head.weight"]
    monkeypatch.setattr(sketch, "_seed", lambda generator: 3)
    part = gs.empirical_ntk(model, x1, sketch=9, parameters=names)
    expected = estimates(model, x1, x1, "full", range(3, 12), only=names[0])
    assert_close(part.kernel, expected.mean(0))
    assert_close(part.standard_error, expected.std(0) / 9**0.5)


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
