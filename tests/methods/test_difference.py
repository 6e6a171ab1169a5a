"""The difference estimator against double backward, in float64 on smooth networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from grokscope.methods.difference import difference_squared_norms
from tests.measures.networks import Network, smooth_mlp, transformer


def smooth_cnn() -> Network:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3), nn.Tanh()
    )
    return model.double(), torch.randn(5, 2, 6, 6).double()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("make", [smooth_mlp, smooth_cnn, transformer])
def test_value_and_gradient_on_smooth_networks(make: Callable[[], Network], scale: float) -> None:
    """Inputs of any size: the step goes with their length, and weights are adapted to it."""
    torch.manual_seed(0)
    model, x = make()
    function = lambda z: model(z / scale)  # noqa: E731
    leaf = (scale * x).requires_grad_()
    outputs = function(leaf)
    directions = torch.randn(len(x), 2, outputs.shape[1]).double()
    weights = torch.rand(len(x)).double()

    found = difference_squared_norms(function, leaf, outputs, directions)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention refuses what is compared with
        outputs = function(leaf)
    rows = [
        torch.autograd.grad(outputs, leaf, u, create_graph=True)[0] for u in directions.unbind(1)
    ]
    expected = torch.stack([row.flatten(1).square().sum(1) for row in rows]).sum(0)
    assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (
        torch.autograd.grad(
            (weights * value).sum(), list(model.parameters()), retain_graph=True,
            materialize_grads=True,
        )
        for value in (found, expected)
    )  # fmt: skip
    size = max(float(gradient.abs().max()) for gradient in theirs)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * size)
    assert leaf.grad is None


def test_a_kink_on_the_way_contributes_its_jump() -> None:
    """relu(w x + b) just below its kink: the penalty's own gradient is zero, the difference's not.

    Over the step e the output rises by w e - |w x + b|, of which the derivative by w is e + x.
    """
    weight, bias = torch.tensor([[2.0]]).double(), torch.tensor([-2.0 - 1e-9]).double()
    weight.requires_grad_()
    function = lambda z: torch.nn.functional.leaky_relu(z @ weight + bias, 0.5)  # noqa: E731
    leaf = torch.ones(1, 1).double().requires_grad_()
    outputs = function(leaf)
    found = difference_squared_norms(function, leaf, outputs, torch.ones(1, 1, 1).double())
    assert_close(found, torch.ones(1).double())
    (gradient,) = torch.autograd.grad(found, weight)
    step = torch.finfo(torch.float64).eps ** 0.5
    # 2 |h| d/dw (f(1 + e) - f(1)) / e with slope 1 there and 1/2 here, h = 1
    assert_close(gradient, torch.full((1, 1), 2 * ((1 + step) - 0.5) / step).double())


def test_a_zero_jacobian_has_the_gradient_zero() -> None:
    weight = torch.zeros(3, 2, requires_grad=True)
    leaf = torch.ones(4, 3, requires_grad=True)
    outputs = leaf @ weight
    found = difference_squared_norms(lambda z: z @ weight, leaf, outputs, torch.ones(4, 1, 2))
    found.sum().backward()
    assert not found.any()
    assert not weight.grad.any()
