from __future__ import annotations

import json
from collections.abc import Callable
from math import erf, exp, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

import grokscope as gs
from tests.reference import capacity as twin


def _normal(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def _clouds(seed: int, sizes: tuple[int, ...] = (7, 30, 12, 21), num_features: int = 16) -> list:
    """Gaussian clouds of unequal sizes, some of fewer and some of more points than features."""
    normal = _normal(seed)
    return [2 * normal(num_features) + normal(m, num_features) for m in sizes]


def _vectors(seed: int, clouds: list[Tensor], num_samples: int = 25) -> list[Tensor]:
    normal = _normal(seed)
    return [normal(min(points.shape) + 1, num_samples) for points in clouds]


@pytest.mark.parametrize("name", ["gauss", "mnist_pix50", "mnist_mlp200"])
@pytest.mark.parametrize("own_centers", [False, True])
def test_agrees_with_recorded_reference(
    shared_reference: Path, name: str, own_centers: bool
) -> None:
    data = np.load(shared_reference / "manifold" / f"{name}.npz")
    count = len(data["alpha"])
    clouds = [torch.from_numpy(data[f"X{i}"]).mT for i in range(count)]
    t = [torch.from_numpy(data[f"t{i}"]) for i in range(count)]
    subspace = None if own_centers else torch.from_numpy(data["V11"])
    found = gs.manifold_geometry(clouds, t=t, center_subspace=subspace)
    capacity_error, error = (1e-5, 1e-5) if own_centers else (1e-8, 1e-6)
    assert found.num_center_components == int(data["K"])
    assert float(found.center_correlation) == pytest.approx(float(data["rho"]), rel=1e-10)
    for value, key, rtol in (
        (found.capacity, "alpha", capacity_error),
        (found.radius, "R", error),
        (found.dimension, "D", error),
    ):
        np.testing.assert_allclose(value.numpy(), data[key], rtol=rtol)
    means = json.loads((shared_reference / "manifold" / f"{name}.json").read_text())
    for key in ("capacity", "radius", "dimension"):
        assert float(getattr(found, f"mean_{key}")) == pytest.approx(means[key], rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_one_problem_at_a_time(margin: float, dtype: torch.dtype) -> None:
    clouds = [points.to(dtype) for points in _clouds(0)]
    t = _vectors(1, clouds)
    subspace = torch.linalg.qr(_normal(2)(16, 3)).Q
    found = gs.manifold_geometry(clouds, margin, t=t, center_subspace=subspace)
    expected = twin.manifold_geometry(clouds, t, subspace, margin)
    for key, value in expected.items():
        torch.testing.assert_close(getattr(found, key), value, rtol=1e-9, atol=0)
    assert float(found.mean_capacity) == pytest.approx(1 / float((1 / found.capacity).mean()))


def test_chunks_change_nothing() -> None:
    clouds = _clouds(3)
    whole = gs.manifold_geometry(clouds, num_samples=30)
    parts = gs.manifold_geometry(clouds, num_samples=30, chunk_size=7)
    for key in ("capacity", "radius", "dimension"):
        torch.testing.assert_close(getattr(parts, key), getattr(whole, key), rtol=1e-11, atol=0)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), num_features=st.sampled_from([5, 16, 40]))
def test_same_whatever_the_rotation_origin_order_and_scale(seed: int, num_features: int) -> None:
    clouds = _clouds(seed, num_features=num_features)
    normal = _normal(seed + 1)
    rotation = torch.linalg.qr(normal(num_features, num_features)).Q
    shift = normal(num_features)
    moved = [3 * points[torch.randperm(len(points))] @ rotation + shift for points in clouds]
    options = {"num_samples": 20, "correlations": "keep", "margin": 0.3}
    expected = gs.manifold_geometry(clouds, **options)
    found = gs.manifold_geometry(moved, **options)
    for key in ("capacity", "radius", "dimension"):
        torch.testing.assert_close(getattr(found, key), getattr(expected, key), rtol=1e-6, atol=0)


def test_order_of_the_manifolds_only_reorders_the_result() -> None:
    clouds = _clouds(5, sizes=(7, 30, 12, 21, 9, 18))
    t = _vectors(6, clouds)
    order = [3, 0, 5, 1, 4, 2]
    expected = gs.manifold_geometry(clouds, t=t)
    found = gs.manifold_geometry([clouds[i] for i in order], t=[t[i] for i in order])
    assert found.num_center_components == expected.num_center_components >= 1
    torch.testing.assert_close(found.capacity, expected.capacity[order], rtol=1e-6, atol=0)


def test_a_tensor_of_manifolds_is_a_list_of_them() -> None:
    clouds = _normal(8)(5, 9, 20)
    found = gs.manifold_geometry(clouds, num_samples=10)
    torch.testing.assert_close(
        found.capacity, gs.manifold_geometry(list(clouds), num_samples=10).capacity
    )


@pytest.mark.parametrize("margin", [0.0, 0.8])
def test_isolated_points_have_the_perceptrons_capacity(margin: float) -> None:
    points = _normal(9)(10, 1, 60)
    density = exp(-(margin**2) / 2) / sqrt(2 * pi)
    below = (1 + erf(margin / sqrt(2))) / 2
    gardner = 1 / ((1 + margin**2) * below + margin * density)
    found = gs.manifold_geometry(points, margin, num_samples=20_000)
    assert float(found.mean_capacity) == pytest.approx(gardner, rel=0.02)
    assert float(found.mean_radius) == 0.0
    assert float(found.mean_dimension) == 0.0


def _circles(radius: float, count: int = 3, num_points: int = 80) -> Tensor:
    """Circles in planes of their own about orthogonal centers.

    The radius is in units of a center's distance from the mean over all points.
    """
    angle = torch.arange(num_points) * (2 * torch.pi / num_points)
    scale = radius * (1 - 1 / count) ** 0.5
    clouds = torch.zeros(count, num_points, 3 * count, dtype=torch.float64)
    for i in range(count):
        clouds[i, :, i] = 1.0
        clouds[i, :, count + 2 * i] = scale * angle.cos()
        clouds[i, :, count + 2 * i + 1] = scale * angle.sin()
    return clouds


def _ball_capacity(radius: float, dimension: int) -> float:
    """Chung, Lee and Sompolinsky, Physical Review E 93:060301 (2016): balls without margin."""

    def inner(t: float) -> float:
        touching = integrate.quad(
            lambda u: stats.norm.pdf(u) * (radius * t - u) ** 2 / (1 + radius**2),
            -t / radius,
            t * radius,
        )[0]
        inside = integrate.quad(lambda u: stats.norm.pdf(u) * (u**2 + t**2), -np.inf, -t / radius)[
            0
        ]
        return stats.chi(dimension).pdf(t) * (touching + inside)

    return 1 / integrate.quad(inner, 0, 12)[0]


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5])
def test_circles_have_the_capacity_of_discs(radius: float) -> None:
    found = gs.manifold_geometry(_circles(radius), num_samples=2000, correlations="keep")
    assert float(found.mean_capacity) == pytest.approx(_ball_capacity(radius, 2), rel=0.04)
    assert float(found.mean_radius) <= radius
    assert float(found.mean_dimension) <= 2.1


def test_larger_manifolds_have_less_capacity() -> None:
    capacities = [
        float(gs.manifold_geometry(_circles(r), num_samples=200).mean_capacity)
        for r in (0.1, 0.3, 1.0, 3.0)
    ]
    assert capacities == sorted(capacities, reverse=True)


def test_dimension_of_spheres_is_found_where_they_are_large() -> None:
    normal = _normal(10)
    directions = torch.nn.functional.normalize(normal(4, 400, 5), dim=2)
    clouds = torch.zeros(4, 400, 24, dtype=torch.float64)
    for i in range(4):
        clouds[i, :, i] = 1.0
        clouds[i, :, 4 + 5 * i : 9 + 5 * i] = 5 * directions[i]
    found = gs.manifold_geometry(clouds, correlations="keep", rank_reduced_dimension=True)
    assert float(found.mean_dimension) == pytest.approx(5, rel=0.01)


def test_rank_reduced_dimension_ignores_features_without_variance() -> None:
    clouds = _clouds(11, sizes=(30, 30, 25), num_features=6)
    wide = [torch.cat([points, torch.ones(len(points), 10)], dim=1) for points in clouds]
    options = {"num_samples": 40, "correlations": "keep", "rank_reduced_dimension": True}
    expected = gs.manifold_geometry(clouds, **options)
    found = gs.manifold_geometry(wide, **options)
    torch.testing.assert_close(found.dimension, expected.dimension, rtol=1e-7, atol=0)
    plain = gs.manifold_geometry(wide, num_samples=40, correlations="keep")
    assert not torch.allclose(plain.dimension, expected.dimension, rtol=1e-3)


def test_given_vectors_fit_the_rank_where_it_counts() -> None:
    wide = [torch.cat([p, torch.ones(len(p), 2)], dim=1) for p in _clouds(12, (30, 25), 6)]
    t = [_normal(13)(7, 15) for _ in wide]
    gs.manifold_geometry(wide, t=t, rank_reduced_dimension=True)
    with pytest.raises(ValueError, match=r"t\[0\] must have shape \(9, num_samples\)"):
        gs.manifold_geometry(wide, t=t)


def test_duplicate_points_and_dead_features_change_nothing() -> None:
    clouds = _clouds(14)
    t = _vectors(15, clouds)
    subspace = torch.zeros(16, 0)
    expected = gs.manifold_geometry(
        clouds[1:2] * 2 + clouds[3:], center_subspace=subspace, t=[t[1], t[1], t[3]]
    )
    doubled = [torch.cat([points, points]) for points in clouds]
    found = gs.manifold_geometry(
        doubled[1:2] * 2 + doubled[3:], center_subspace=subspace, t=[t[1], t[1], t[3]]
    )
    torch.testing.assert_close(found.capacity, expected.capacity, rtol=1e-10, atol=0)
    dead = [torch.cat([points, torch.zeros(len(points), 4)], dim=1) for points in clouds]
    assert bool(torch.isfinite(gs.manifold_geometry(dead, num_samples=10).capacity).all())


def test_two_unbalanced_manifolds() -> None:
    found = gs.manifold_geometry(_clouds(16, sizes=(5, 60)), num_samples=50)
    assert found.num_center_components == 0
    assert bool((found.capacity > 0).all())
    assert bool(torch.isfinite(found.radius).all())


def test_nothing_that_was_given_is_changed() -> None:
    clouds = [points.float().requires_grad_() for points in _clouds(17)]
    before = [points.detach().clone() for points in clouds]
    state = torch.random.get_rng_state()
    found = gs.manifold_geometry(clouds, num_samples=10)
    assert not found.capacity.requires_grad
    assert found.capacity.dtype == torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(clouds, before, strict=True))
    assert all(points.grad is None and points.requires_grad for points in clouds)


def test_generator_decides_the_numbers() -> None:
    clouds = _clouds(18)

    def capacity(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return gs.manifold_geometry(clouds, num_samples=20, generator=generator).capacity

    assert torch.equal(capacity(1), capacity(1))
    assert not torch.equal(capacity(1), capacity(2))


def _replaced(clouds: list[Tensor], index: int, value: object) -> list:
    return [value if i == index else points for i, points in enumerate(clouds)]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: c[:1], {}, "at least two manifolds: got 1"),
        (lambda c: _replaced(c, 2, c[2].flatten()), {}, r"manifolds\[2\] must have shape \(m, N\)"),
        (lambda c: _replaced(c, 1, c[1][:0]), {}, r"manifolds\[1\] is empty"),
        (lambda c: _replaced(c, 1, c[1][:, :3]), {}, r"manifolds\[1\] has 3 features"),
        (lambda c: _replaced(c, 3, c[3].log()), {}, r"manifolds\[3\] holds NaN or infinity.*row 0"),
        (lambda c: c, {"margin": -1.0}, "margin must not be negative"),
        (lambda c: c, {"num_samples": 0}, "num_samples must be positive"),
        (lambda c: c, {"chunk_size": 0}, "chunk_size must be a positive integer"),
        (
            lambda c: c,
            {"t": [torch.ones(3, 2)]},
            "t must hold one tensor for each of 4 manifolds: got 1",
        ),
        (lambda c: c, {"t": [torch.ones(3, 2)] * 4}, r"t\[0\] must have shape \(8, num_samples\)"),
        (lambda c: c, {"center_subspace": torch.ones(3, 1)}, r"shape \(16, K\): got \(3, 1\)"),
        (lambda c: c, {"center_subspace": torch.ones(16, 2)}, "orthonormal columns"),
        (
            lambda c: c,
            {"center_subspace": torch.eye(16)[:, :1], "correlations": "keep"},
            "drop one of them",
        ),
    ],
)
def test_mistakes_are_named(change: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gs.manifold_geometry(change(_clouds(19)), **options)


def test_other_things_than_floating_point_tensors_are_named() -> None:
    clouds = _clouds(20)
    with pytest.raises(TypeError, match=r"manifolds\[0\] must be floating point: got torch.int64"):
        gs.manifold_geometry(_replaced(clouds, 0, clouds[0].long()))


def test_manifold_without_a_scale_is_named() -> None:
    spread = _normal(21)(20, 6)
    spread -= spread.mean(0)
    clouds = [spread + shift for shift in (torch.eye(6)[0], torch.zeros(6), -torch.eye(6)[0])]
    with pytest.raises(ValueError, match=r"manifolds\[1\]: its center coincides"):
        gs.manifold_geometry([points.double() for points in clouds], correlations="keep")


def test_class_manifolds_follow_the_labels() -> None:
    x = torch.arange(24.0).reshape(6, 2, 2)
    y = torch.tensor([4, 0, 4, 4, 0, 7])
    zero, four, seven = gs.class_manifolds(x, y)
    assert torch.equal(four, x.flatten(1)[[0, 2, 3]])
    assert (len(zero), len(seven)) == (2, 1)
    assert torch.equal(gs.class_manifolds(x, y, num_points=2)[1], four[:2])
    picked = gs.class_manifolds(x, y, 2, torch.Generator().manual_seed(0))[1]
    assert len(picked) == 2
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(6,\)"):
        gs.class_manifolds(x, y.float())
