"""Slices of input space."""

from __future__ import annotations

import pytest
import torch

import grokscope as gs


def test_through_three_points() -> None:
    points = torch.randn(3, 2, 3, 4)
    plane = gs.Slice.through(*points)
    flat = plane.basis.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(2, dtype=torch.float64))
    where = plane.coordinates(points)
    torch.testing.assert_close(plane.points(where), points.double())
    extent = float(plane.polygon.max())
    assert extent == pytest.approx(1.25 * float(where.abs().max()))


def test_coordinates_project_orthogonally() -> None:
    plane = gs.Slice(torch.randn(5), torch.randn(2, 5))
    x = torch.randn(6, 5, dtype=torch.float64)
    residual = x - plane.points(plane.coordinates(x))
    torch.testing.assert_close(residual @ plane.basis.T, torch.zeros(6, 2, dtype=torch.float64))
    c = torch.randn(6, 2, dtype=torch.float64)
    lengths = (plane.points(c) - plane.origin).norm(dim=1)
    torch.testing.assert_close((c @ plane.metric).norm(dim=1), lengths)


def test_random_slices_follow_their_generator() -> None:
    a, b = (
        gs.Slice.random(torch.zeros(2, 3), generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    assert torch.equal(a.basis, b.basis)
    assert a.basis.shape == (2, 2, 3)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    gs.Slice.random(torch.zeros(6), generator=torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())


def test_clockwise_polygons_are_turned() -> None:
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    plane = gs.Slice(torch.zeros(2), torch.eye(2), polygon=corners)
    assert plane.polygon.tolist() == corners.flip(0).tolist()
    assert "3 corners" in repr(plane)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"basis": torch.eye(3)}, r"basis must have shape \(2, 3\)"),
        ({"basis": torch.ones(2, 3)}, "independent directions"),
        ({"basis": torch.full((2, 3), float("nan"))}, "basis holds NaN"),
        ({"origin": torch.tensor([0.0, float("inf"), 0.0])}, "origin holds NaN or inf"),
        ({"origin": torch.tensor(1.0)}, "got a scalar"),
        ({"half_width": 0.0}, "half_width must be positive"),
        ({"polygon": torch.zeros(2, 2)}, "m >= 3"),
        ({"polygon": torch.tensor([[0.0, 0], [2, 0], [1, 0.5], [1, 2]])}, "strictly convex"),
        ({"polygon": torch.tensor([[0.0, 0], [1, 0], [2, 0], [1, 2]])}, "strictly convex"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    given = {"origin": torch.zeros(3), "basis": torch.eye(3)[:2], **arguments}
    with pytest.raises(ValueError, match=message):
        gs.Slice(**given)


def test_a_pentagram_is_not_convex() -> None:
    turn = torch.arange(5) * (4 * torch.pi / 5)
    with pytest.raises(ValueError, match="strictly convex"):
        gs.Slice(torch.zeros(2), torch.eye(2), polygon=torch.stack([turn.cos(), turn.sin()], 1))


def test_points_on_one_line_and_different_shapes() -> None:
    a = torch.randn(4)
    with pytest.raises(ValueError, match="lie on one line"):
        gs.Slice.through(a, 2 * a, 3 * a)
    with pytest.raises(ValueError, match="one shape"):
        gs.Slice.through(a, a, torch.zeros(5))
    with pytest.raises(ValueError, match="x must have shape"):
        gs.Slice(torch.zeros(3), torch.eye(3)[:2]).coordinates(torch.zeros(1, 4))


def test_directions_without_a_generator_leave_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, second = (gs.Slice.random(torch.zeros(5)) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.basis, second.basis)
