from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

import grokscope as gs
from grokscope.measures import nnls


def _problem(seed: int, num_features: int, num_points: int, num_targets: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_features, num_points), (num_targets, num_features)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def _assert_optimal(points: Tensor, targets: Tensor, coefficients: Tensor) -> None:
    """The Karush-Kuhn-Tucker conditions, which a convex problem's solutions alone satisfy."""
    gap = targets - coefficients @ points.mT
    slope = gap @ points
    scale = points.norm(dim=0).clamp_min(1e-300) * targets.norm(dim=1, keepdim=True)
    assert bool((coefficients >= 0).all())
    assert float((slope / scale).max()) < 1e-10
    assert float((slope * (coefficients > 0) / scale).abs().max()) < 1e-10


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_features=st.integers(1, 12),
    num_points=st.integers(1, 30),
    duplicates=st.integers(0, 10),
    rounding=st.sampled_from([None, 0, 1]),
    shrink=st.sampled_from([1.0, 1e-6]),
)
def test_every_solution_satisfies_the_optimality_conditions(
    seed: int,
    num_features: int,
    num_points: int,
    duplicates: int,
    rounding: int | None,
    shrink: float,
) -> None:
    points, targets = _problem(seed, num_features, num_points, 7)
    points[0] = 1 / shrink  # nearly parallel points where shrink is small
    if rounding is not None:
        points = points.round(decimals=rounding)
    points = torch.cat([points, points[:, :duplicates]], dim=1)
    solution = gs.nonnegative_least_squares(points, targets)
    _assert_optimal(points, targets, solution.coefficients)
    assert float(solution.residual.max()) < 1e-10
    for target, found in zip(targets, solution.coefficients, strict=True):
        expected = optimize.nnls(points.numpy(), target.numpy(), maxiter=10_000)[1]
        assert float((target - points @ found).norm()) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("num_features", "num_points"), [(40, 25), (25, 40), (6, 200)])
def test_combinations_agree_with_scipy(num_features: int, num_points: int) -> None:
    points, targets = _problem(3, num_features, num_points, 11)
    points[0] += 4  # on one side of a hyperplane, so that the combination is unique
    found = gs.nonnegative_least_squares(points, targets).coefficients
    for target, coefficients in zip(targets, found, strict=True):
        expected = optimize.nnls(points.numpy(), target.numpy())[0]
        np.testing.assert_allclose(coefficients.numpy(), expected, atol=1e-10)


def test_signs_flip_points() -> None:
    points, targets = _problem(4, 17, 9, 6)
    signs = torch.where(torch.rand(6, 9) < 0.5, -1.0, 1.0).double()
    found = gs.nonnegative_least_squares(points, targets, signs).coefficients
    for i in range(6):
        expected = gs.nonnegative_least_squares(points * signs[i], targets[i : i + 1])
        torch.testing.assert_close(found[i], expected.coefficients[0], atol=1e-11, rtol=0)


def test_points_of_their_own_for_every_target() -> None:
    targets = torch.randn(5, 8).double()
    points = torch.randn(5, 8, 13).double()
    found = gs.nonnegative_least_squares(points, targets).coefficients
    for i in range(5):
        expected = optimize.nnls(points[i].numpy(), targets[i].numpy())[0]
        np.testing.assert_allclose(found[i].numpy(), expected, atol=1e-11)


def test_without_the_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    points, targets = _problem(5, 30, 20, 4)
    signs = torch.where(torch.rand(4, 20) < 0.5, -1.0, 1.0).double()
    expected = gs.nonnegative_least_squares(points, targets, signs).coefficients
    monkeypatch.setattr(nnls, "_GRAM_LIMIT", 3)
    found = gs.nonnegative_least_squares(points, targets, signs).coefficients
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def test_nearly_equal_points_reach_full_precision() -> None:
    points, targets = _problem(6, 8, 20, 30)
    points = torch.cat([points, points + 1e-8 * torch.randn_like(points)], dim=1)
    found = gs.nonnegative_least_squares(points, targets)
    _assert_optimal(points, targets, found.coefficients)


def test_ill_conditioned_points_keep_their_coefficients() -> None:
    index = torch.arange(6, dtype=torch.float64)
    hilbert = 1 / (index.unsqueeze(1) + index + 1)  # condition number 1.5e7
    found = gs.nonnegative_least_squares(hilbert, hilbert.sum(1).unsqueeze(0)).coefficients
    torch.testing.assert_close(found, torch.ones(1, 6).double(), atol=1e-7, rtol=0)


def test_target_inside_the_cone_of_too_many_points_ends() -> None:
    points, targets = _problem(7, 12, 400, 20)
    found = gs.nonnegative_least_squares(points, targets)
    torch.testing.assert_close(found.coefficients @ points.mT, targets, atol=1e-11, rtol=0)
    assert found.num_rounds < 60


def test_zero_points_and_zero_targets() -> None:
    points = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = gs.nonnegative_least_squares(points, targets)
    assert found.coefficients.tolist() == [[0.0, 2.0], [0.0, 0.0]]
    assert found.residual.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("points", "signs", "message"),
    [
        ((8, 3, 15), torch.ones(8, 15), "signs are for points .D, m. that all targets share"),
        ((3, 15), torch.ones(8, 14), "signs and points must agree in m"),
        ((3, 15), 2 * torch.ones(8, 15), "signs must be .1 and -1"),
        ((3, 15), torch.zeros(8, 15), "signs must be .1 and -1"),
    ],
)
def test_signs_that_do_not_fit_are_named(
    points: tuple[int, ...], signs: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gs.nonnegative_least_squares(torch.randn(points), torch.randn(8, 3), signs)
