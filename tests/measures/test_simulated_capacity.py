from __future__ import annotations

import pytest
import torch
from scipy.optimize import linprog

import grokscope as gs
from grokscope.measures.simulated_capacity import separable_by_origin


def test_separability_agrees_with_linear_programming() -> None:
    points = torch.randn(60, 6, 12).double()
    found = separable_by_origin(points)
    assert 5 < int(found.sum()) < 55
    for columns, separable in zip(points.numpy(), found.tolist(), strict=True):
        program = linprog(c=[0.0] * 6, A_ub=-columns.T, b_ub=[-1.0] * 12, bounds=[(None, None)] * 6)
        assert (program.status == 0) == separable


def test_points_in_general_position_follow_covers_theorem() -> None:
    points = torch.randn(24, 1, 40, generator=torch.Generator().manual_seed(0))
    found = gs.simulated_capacity(points, num_trials=200, center=False)
    assert found.capacity == pytest.approx(2, rel=0.02)
    assert found.capacity == pytest.approx(24 / found.num_features)
    shares = list(found.fractions.values())
    assert list(found.fractions) == sorted(found.fractions)
    assert shares[0] < 0.5 <= shares[-1]


def test_agrees_with_mean_field_theory_on_gaussian_clouds() -> None:
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(30, 1, 90, generator=generator)
    clouds = centers + 0.6 * torch.randn(30, 5, 90, generator=generator)
    theory = gs.manifold_geometry(clouds, correlations="keep", num_samples=500).mean_capacity
    found = gs.simulated_capacity(clouds, num_trials=40, progress=False)
    assert found.capacity == pytest.approx(float(theory), rel=0.1)


def test_same_generator_same_numbers() -> None:
    points = torch.randn(6, 3, 20)
    first = gs.simulated_capacity(points, 20, torch.Generator().manual_seed(5))
    assert first == gs.simulated_capacity(points, 20, torch.Generator().manual_seed(5))


def test_too_many_manifolds_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"too many for 3 features.*capacity is below 6\.67"):
        gs.simulated_capacity(torch.randn(20, 2, 3))
    with pytest.raises(ValueError, match="num_trials must be positive"):
        gs.simulated_capacity(torch.randn(20, 2, 3), num_trials=0)
