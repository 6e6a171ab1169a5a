"""Measures of tensors have the precision of what they are given, inside of autocast too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import grokscope as gs


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


X = torch.randn(24, 7, generator=generator())
Y = torch.arange(24) % 3
MANIFOLDS = [X[i : i + 8] + i for i in (0, 8, 16)]
MANY = list(torch.randn(12, 3, 20, generator=generator()))
KERNELS = [X @ X.T, X.tanh() @ X.tanh().T]

MEASURES: dict[str, Callable[[], Any]] = {
    "fourier_gini": lambda: gs.fourier_gini(X, 11),
    "fourier_spectrum": lambda: gs.fourier_spectrum(X, 11),
    "nonnegative_least_squares": lambda: gs.nonnegative_least_squares(X.T, X[:5]).residual.abs()
    < 1e-5,
    "kernel_distance": lambda: gs.kernel_distance(*KERNELS),
    "kernel_distance_matrix": lambda: gs.kernel_distance_matrix(KERNELS),
    "ntk_velocity": lambda: gs.ntk_velocity(KERNELS),
    "kernel_alignment": lambda: gs.kernel_alignment(KERNELS[0], Y, centered=True),
    "center_structure": lambda: gs.center_structure(X[:5]).residual_correlations,
    "manifold_geometry": lambda: gs.manifold_geometry(
        MANIFOLDS, num_samples=20, generator=generator()
    ).capacity,
    "glue_geometry": lambda: gs.glue_geometry(
        MANIFOLDS, num_samples=20, generator=generator()
    ).capacity,
    "simulated_capacity": lambda: gs.simulated_capacity(MANY, generator=generator()).capacity,
    "linear_probe": lambda: gs.linear_probe(X, Y, X, Y).accuracy,
    "gini": lambda: gs.gini(X),
    "embedding_2d": lambda: gs.embedding_2d(X),
    "weight_norms": lambda: gs.weight_norms(torch.nn.Linear(7, 3).requires_grad_(False))["weight"]
    > 0,
}


@pytest.mark.parametrize("name", MEASURES)
def test_autocast_around_the_call_does_not_matter(name: str) -> None:
    torch.manual_seed(0)
    right = MEASURES[name]()
    with torch.autocast("cpu", torch.bfloat16):
        found = MEASURES[name]()
    assert_close(found, right, rtol=0, atol=0)
