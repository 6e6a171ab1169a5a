from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.measures import _center_search as search
from tests.reference import capacity as twin


def _centers(seed: int, count: int = 9, num_features: int = 30, shared: int = 2) -> Tensor:
    """Centers whose first few directions are shared."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal(count, num_features) + 3 * normal(count, shared) @ normal(shared, num_features)


def test_cost_and_gradient_are_those_of_the_definition() -> None:
    coordinates = torch.randn(6, 5).double()
    frame = torch.randn(2, 5, 3).double()
    cost, slope, space, kept = search._evaluate(
        coordinates.numpy(), (coordinates @ coordinates.T).numpy(), frame.numpy()
    )
    for i in range(2):
        z = frame[i].clone().requires_grad_()
        inverse = torch.linalg.inv(torch.linalg.cholesky(z.T @ z))
        expected = twin.center_cost(coordinates, z @ inverse.T)
        expected.backward()
        assert cost[i] == pytest.approx(float(expected.detach()), rel=1e-12)
        assert z.grad is not None
        np.testing.assert_allclose(slope[i], z.grad.numpy(), atol=1e-10)
        np.testing.assert_allclose(space[i].T @ space[i], np.eye(3), atol=1e-12)
    first = torch.from_numpy(space[0])
    left = (coordinates - coordinates @ first @ first.T).norm(dim=1)
    assert kept[0] == pytest.approx(float((left / coordinates.norm(dim=1)).min()) ** 2)


def test_search_ends_at_minima() -> None:
    centers = _centers(0)
    coordinates = torch.linalg.qr((centers - centers.mean(0)).T).R.T.numpy()[:, :-1]
    starts = np.random.default_rng(0).standard_normal((6, coordinates.shape[1], 2))
    found = search.minimize(coordinates, starts, 1e-9, 500)
    gram = coordinates @ coordinates.T
    cost, slope, _, kept = search._evaluate(coordinates, gram, found)
    settled = kept > 1e-3
    assert settled.any()
    assert np.abs(slope[settled]).max() < 1e-6
    nudged = found + 1e-3 * np.random.default_rng(1).standard_normal(found.shape)
    assert (search._evaluate(coordinates, gram, nudged)[0] > cost)[settled].all()


def test_removes_what_the_centers_share() -> None:
    structure = gs.center_structure(_centers(1, count=14, num_features=200))
    assert structure.num_components == 2
    assert float(structure.residual_correlations[2]) < 0.5 * float(structure.correlation)
    overlap = structure.subspace.T @ structure.subspace
    torch.testing.assert_close(overlap, torch.eye(2).double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_same_whatever_the_rotation_the_order_and_the_scale(seed: int) -> None:
    centers = _centers(seed)
    rotation = torch.linalg.qr(torch.randn(30, 30).double()).Q
    order = torch.randperm(9)
    expected = gs.center_structure(centers)
    found = gs.center_structure(7 * centers[order] @ rotation + torch.randn(30))
    turned = rotation.T @ expected.subspace
    torch.testing.assert_close(
        found.subspace @ found.subspace.T, turned @ turned.T, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.correlation, expected.correlation)


def test_search_stops_after_three_rises_past_the_fourth_rank() -> None:
    centers = torch.randn((12, 200), generator=torch.Generator().manual_seed(1))
    residuals = gs.center_structure(centers).residual_correlations
    assert bool((residuals.diff() > 0).all())
    assert len(residuals) == 1 + 5


def test_nothing_is_removed_where_allowed_and_best() -> None:
    centers = torch.eye(6).double() + 0.01 * torch.randn(6, 6).double()
    assert gs.center_structure(centers).num_components >= 1
    assert gs.center_structure(centers, min_components=0).num_components == 0


def test_two_centers_leave_nothing_to_remove() -> None:
    structure = gs.center_structure(torch.randn(2, 5))
    assert structure.subspace.shape == (5, 0)
    assert float(structure.correlation) == pytest.approx(1.0)


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    gs.center_structure(_centers(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_center_at_the_mean_is_named() -> None:
    centers = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])
    with pytest.raises(ValueError, match=r"manifolds\[1\].*mean of the centers"):
        gs.center_structure(centers)
