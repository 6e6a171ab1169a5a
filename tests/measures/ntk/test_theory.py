"""Closed forms of a bias-free two-layer ReLU network and what its kernel says of training.

Walker et al. (2025), appendix: the kernel in closed form (Lemma 8), the rate of change of
<x, centroid_x> under gradient flow for one output (Theorem 9) and for several (Proposition 10); and
from them, ours, the rate of the alignment and how both scale with weights and outputs. Derived here
in full for f = c a^T relu(W x) under the mean binary cross-entropy of logits f and labels y, where
the centroid of x is the gradient of f in x, and <x, centroid_x> = f(x) because f is positively
homogeneous in x.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokscope as gs
from tests.reference.ntk import full_kernel


class TwoLayer(nn.Module):
    """f(x) = c a^T relu(W x), (n,)."""

    def __init__(self, d: int = 4, width: int = 9, outputs: int = 1, scale: float = 1.3) -> None:
        super().__init__()
        self.inner = nn.Linear(d, width, bias=False)
        self.outer = nn.Linear(width, outputs, bias=False)
        self.scale = scale
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.outer(F.relu(self.inner(x)))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4, dtype=torch.float64), torch.tensor([0.0, 1, 1, 0, 1, 0]).double()


def centroid(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x[None]).sum(), x)[0]


def moved(model: nn.Module, x: Tensor, y: Tensor, rate: float) -> nn.Module:
    """The model after one step of gradient descent of this length."""
    after = copy.deepcopy(model)
    loss = F.binary_cross_entropy_with_logits(after(x).squeeze(1), y)
    grads = torch.autograd.grad(loss, list(after.parameters()))
    with torch.no_grad():
        for parameter, grad in zip(after.parameters(), grads, strict=True):
            parameter -= rate * grad
    return after


def rate_of(quantity: object, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """D quantity / dt under gradient flow, by a central difference."""
    step = 1e-6
    ahead, behind = moved(model, x, y, step), moved(model, x, y, -step)
    return (quantity(ahead) - quantity(behind)) / (2 * step)  # type: ignore[operator]


def residuals(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (y - torch.sigmoid(model(x).squeeze(1))).detach()


def test_closed_form_of_the_kernel(data: tuple[Tensor, Tensor]) -> None:
    """c^2 (sum_i relu(w_i x) relu(w_i x') + <x, x'> sum_i a_i^2 1[w_i x > 0] 1[w_i x' > 0])."""
    model, (x, _) = TwoLayer(), data
    x1, x2 = x, torch.randn(5, 4, dtype=torch.float64)
    w, a, c = model.inner.weight, model.outer.weight[0], model.scale
    h1, h2 = x1 @ w.T, x2 @ w.T
    on1, on2 = (h1 > 0).double(), (h2 > 0).double()
    expected = c**2 * (h1.relu() @ h2.relu().T + (x1 @ x2.T) * ((on1 * a**2) @ on2.T))
    torch.testing.assert_close(gs.empirical_ntk(model, x1, x2)[:, :, 0, 0], expected.detach())


def test_rate_of_the_inner_product(data: tuple[Tensor, Tensor]) -> None:
    """D <x, centroid_x> / dt = mean_m K(x, x_m) (y_m - sigmoid(f(x_m)))."""
    model, (x, y) = TwoLayer(), data
    point = torch.randn(4, dtype=torch.float64)
    measured = rate_of(lambda m: point @ centroid(m, point), model, x, y)
    kernel = gs.empirical_ntk(model, point[None], x, reduce="sum")[0]
    torch.testing.assert_close(
        (kernel * residuals(model, x, y)).mean(), measured, rtol=1e-6, atol=0
    )


def test_rate_of_the_inner_product_for_several_outputs() -> None:
    """D <x, J^T 1> / dt = - mean_m sum_ij K_ij(x, x_m) dloss_m / df_j, with cross-entropy."""
    model = TwoLayer(outputs=3)
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    point = torch.randn(4, dtype=torch.float64)
    step, ends = 1e-6, []
    for sign in (1, -1):
        after = copy.deepcopy(model)
        grads = torch.autograd.grad(F.cross_entropy(after(x), y), list(after.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(after.parameters(), grads, strict=True):
                parameter -= sign * step * grad
        ends.append(point @ centroid(after, point))
    measured = (ends[0] - ends[1]) / (2 * step)
    slopes = (model(x).softmax(1) - F.one_hot(y, 3)).detach()
    kernel = gs.empirical_ntk(model, point[None], x)[0]
    expected = -(kernel.sum(1) * slopes).sum(1).mean()
    torch.testing.assert_close(expected, measured, rtol=1e-6, atol=0)


def test_rate_of_the_alignment(data: tuple[Tensor, Tensor]) -> None:
    """The rate of the cosine of x and its centroid c, by the quotient rule.

    d cos(x, c) / dt = (d <x, c> / dt - cos(x, c) |x| <c, c'> / |c|) / (|x| |c|), where
    c' = dc / dt = mean_m (y_m - sigmoid(f(x_m))) grad_x K(x, x_m).
    """
    model, (x, y) = TwoLayer(), data
    point = torch.randn(4, dtype=torch.float64)
    measured = rate_of(lambda m: F.cosine_similarity(point, centroid(m, point), 0), model, x, y)
    errors = residuals(model, x, y)

    def kernel_mean(at: Tensor) -> Tensor:
        return (gs.empirical_ntk(model, at, x, reduce="sum") * errors).mean(1)

    shift = 1e-5 * torch.eye(4, dtype=torch.float64)
    # K is linear in x on a linear region, so that the difference is exact
    turn = (kernel_mean(point + shift) - kernel_mean(point - shift)) / 2e-5
    m = centroid(model, point)
    cosine = F.cosine_similarity(point, m, 0)
    expected = kernel_mean(point[None])[0] - cosine * point.norm() * (m @ turn) / m.norm()
    expected = expected / (point.norm() * m.norm())
    torch.testing.assert_close(expected, measured, rtol=1e-5, atol=0)


@pytest.mark.parametrize("depth", [2, 3])
def test_scaling_of_weights_and_outputs(depth: int, data: tuple[Tensor, Tensor]) -> None:
    """Weights times s and outputs times c scale K by s^(2L - 2) c^2 for L layers.

    They scale the centroid by s^L c. Relative to its norm the kernel goes as s^(L - 2) c.
    """
    x, _ = data
    widths = [nn.Linear(4, 9, bias=False), nn.Linear(9, 1, bias=False)]
    if depth == 3:
        widths.insert(1, nn.Linear(9, 9, bias=False))
    layers = [layer for w in widths for layer in (w, nn.ReLU())][:-1]
    model = nn.Sequential(*layers).double()
    kernel, before = gs.empirical_ntk(model, x), centroid(model, x[0])
    s, c = 1.7, 0.6
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter *= s

    class Output(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = scaled

        def forward(self, x: Tensor) -> Tensor:
            return c * self.inner(x)

    expected = s ** (2 * depth - 2) * c**2 * kernel
    torch.testing.assert_close(gs.empirical_ntk(Output(), x), expected)
    torch.testing.assert_close(centroid(Output(), x[0]), s**depth * c * before)
    torch.testing.assert_close(full_kernel(Output(), x, x), expected)
