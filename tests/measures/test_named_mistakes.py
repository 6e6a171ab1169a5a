"""Mistakes that surfaced as errors from within PyTorch, each named with its argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs

X, Y = torch.rand(6, 4), torch.arange(6) % 3
MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def diverged() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight.data.fill_(torch.nan)
    return model


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([X[0], X[1]], layout=torch.strided)


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "complex labels of a kernel": (
        lambda: gs.kernel_alignment(X @ X.T, Y.to(torch.complex64)),
        "y must hold real labels or targets",
    ),
    "complex labels of points": (
        lambda: gs.class_manifolds(X, Y.to(torch.complex64)),
        "labels must be integers of shape",
    ),
    "sparse, centroids": (
        lambda: gs.centroid_alignment(MODEL, X.to_sparse()),
        r"x must be a dense tensor.*pass x.to_dense\(\)",
    ),
    "sparse, geometry": (
        lambda: gs.jacobian_geometry(MODEL, X.to_sparse()),
        "x must be a dense tensor",
    ),
    "sparse, kernel": (
        lambda: gs.empirical_ntk(MODEL, X.to_sparse()),
        "x1 must be a dense tensor",
    ),
    "sparse, layers": (
        lambda: gs.layer_centroids(MODEL, X.to_sparse()),
        "x must be a dense tensor",
    ),
    "nested": (lambda: gs.centroid_alignment(MODEL, nested()), "x must be a dense tensor"),
    "a seed too large": (
        lambda: gs.robust_accuracy(MODEL, X, Y, attack="pgd", eps=0.1, seed=2**70),
        "seed must be from",
    ),
    "labels that are not signs": (
        lambda: gs.glue_geometry([X[:3], X[3:], X[:2] + 1], num_samples=5, labels=0 * X[:5, :3]),
        r"labels must be \+1 and -1 in shape .*: got other values",
    ),
    "weights that are NaN": (
        lambda: gs.linear_regions(diverged(), gs.Slice(torch.zeros(4), torch.eye(4)[:2])),
        "weights that are not finite",
    ),
    "a generator of nothing": (
        lambda: gs.jacobian_norm(MODEL, X, generator=torch.Generator()),
        "generator is for projections",
    ),
    "outputs that are NaN": (lambda: gs.empirical_ntk(diverged(), X, X), "infinity at x1"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", MISTAKES)
def test_the_argument_is_named(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_deviation_may_be_a_tensor() -> None:
    def noisy(std: Any) -> torch.Tensor:
        return gs.noise_accuracy(MODEL, X, Y, std, generator=torch.Generator().manual_seed(0))

    assert noisy(torch.tensor(0.5)) == noisy(0.5)
    assert torch.equal(noisy(torch.tensor([0.5, 2.0])), noisy([0.5, 2.0]))


@pytest.mark.parametrize("scale", [1e-180, 1e180])
def test_kernels_of_any_size_have_a_direction(scale: float) -> None:
    one, two = torch.eye(3).double(), torch.ones(3, 3).double()
    torch.testing.assert_close(
        gs.kernel_distance(scale * one, scale * two), gs.kernel_distance(one, two)
    )
