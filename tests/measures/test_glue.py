from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import grokscope as gs
from tests.reference import capacity as twin


def _clouds(seed: int, num_features: int, sizes: tuple[int, ...] = (6, 15, 9)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, num_features)
    return [
        1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        + torch.randn((m, num_features), generator=generator, dtype=torch.float64)
        for m in sizes
    ]


@pytest.mark.parametrize("num_features", [17, 50])
def test_agrees_with_one_problem_at_a_time(num_features: int) -> None:
    clouds = _clouds(0, num_features)
    t = torch.randn(12, num_features).double()
    labels = torch.where(torch.rand(12, 3) < 0.5, -1, 1)
    found = gs.glue_geometry(clouds, t=t, labels=labels)
    for key, value in twin.glue_geometry(clouds, t, labels).items():
        assert float(getattr(found, key)) == pytest.approx(value, rel=1e-8), key
    chunked = gs.glue_geometry(clouds, t=t, labels=labels, chunk_size=5)
    assert float(chunked.radius) == pytest.approx(float(found.radius), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_factors_multiply_to_the_capacity(seed: int) -> None:
    found = gs.glue_geometry(_clouds(seed, 40), num_samples=50)
    product = found.utility * (1 + found.radius**-2) / found.dimension
    assert float(product) == pytest.approx(float(found.capacity), rel=1e-10)


def test_orthonormal_points_have_capacity_two_and_no_extent() -> None:
    t = torch.randn(500, 30).double()
    labels = torch.where(torch.rand(500, 30) < 0.5, -1, 1)
    found = gs.glue_geometry(torch.eye(30).unsqueeze(1), t=t, labels=labels)
    # the projection onto a cone of orthonormal edges keeps what is positive along each
    squared = (labels * t).clamp_min(0).square().sum(1).mean()
    assert float(found.capacity) == pytest.approx(float(30 / squared), rel=1e-12)
    assert float(found.capacity) == pytest.approx(2, rel=4 * (5 / 4 / (500 * 30)) ** 0.5 * 2)
    for key in ("dimension", "radius", "utility", "center_alignment", "axis_alignment"):
        assert float(getattr(found, key)) == pytest.approx(0, abs=1e-12)


def _in_orthogonal_subspaces(count: int) -> Tensor:
    """Clouds around unit vectors, each in four dimensions of its own beside its center."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn((count, 40, 4), generator=generator, dtype=torch.float64)
    clouds = torch.zeros(count, 40, 5 * count, dtype=torch.float64)
    for i in range(count):
        clouds[i, :, i] = 1.0
        clouds[i, :, count + 4 * i : count + 4 * i + 4] = 0.5 * directions[i]
    return clouds


def test_manifolds_in_orthogonal_subspaces_count_one_by_one() -> None:
    """The cone is a product, so that a, b and c are sums over the manifolds."""
    clouds = _in_orthogonal_subspaces(6)
    t = torch.randn(40, 30).double()
    labels = torch.where(torch.rand(40, 6) < 0.5, -1, 1)
    joint = gs.glue_geometry(clouds, t=t, labels=labels)
    pairs = [
        gs.glue_geometry(clouds[i : i + 2], t=t, labels=labels[:, i : i + 2]) for i in (0, 2, 4)
    ]
    a = sum(2 / float(pair.capacity) for pair in pairs)
    b = sum(2 * float(pair.dimension) for pair in pairs)
    c = sum(2 * float(pair.utility / pair.capacity) for pair in pairs)
    assert float(joint.capacity) == pytest.approx(6 / a, rel=1e-9)
    assert float(joint.dimension) == pytest.approx(b / 6, rel=1e-9)
    assert float(joint.utility) == pytest.approx(c / a, rel=1e-9)
    assert float(joint.radius) == pytest.approx((c / (b - c)) ** 0.5, rel=1e-9)
    assert float(joint.center_alignment) == pytest.approx(0, abs=1e-12)


def test_the_capacity_is_that_of_mean_field_where_manifolds_are_independent() -> None:
    """Radius and dimension refer to the mean anchor here and to the mean point there."""
    clouds = _in_orthogonal_subspaces(20)
    # Mean-field geometry takes the mean over all points as origin: one more manifold makes it 0.
    more = torch.cat([clouds, -clouds.sum(0, keepdim=True)])
    joint = gs.glue_geometry(clouds, num_samples=400)
    single = gs.manifold_geometry(more, num_samples=400, correlations="keep")
    # 8,000 squares on either side, each with a standard deviation below its mean times 1.5
    assert 1 / float(joint.capacity) == pytest.approx(
        float((1 / single.capacity[:20]).mean()), rel=3 * 1.5 * (2 / 8000) ** 0.5
    )


def test_many_features_form_no_square_of_their_number() -> None:
    class LargestTensor(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.largest = max(self.largest, out.numel())
            return out

    clouds = _clouds(5, 4000)
    with LargestTensor() as mode:
        gs.glue_geometry(clouds, num_samples=5)
    assert mode.largest <= 30 * 4000  # all points


def test_parallel_centers_are_aligned() -> None:
    clouds = _clouds(2, 60, sizes=(8, 8, 8, 8))
    shared = 20 * torch.randn(60).double()
    apart = gs.glue_geometry(clouds, num_samples=30)
    together = gs.glue_geometry([points + shared for points in clouds], num_samples=30)
    assert float(apart.center_alignment) < 0.3
    assert float(together.center_alignment) > 0.95


def test_rotation_changes_nothing() -> None:
    clouds = _clouds(3, 20)
    rotation = torch.linalg.qr(torch.randn(20, 20).double()).Q
    t = torch.randn(15, 20).double()
    labels = torch.where(torch.rand(15, 3) < 0.5, -1, 1)
    expected = gs.glue_geometry(clouds, t=t, labels=labels)
    found = gs.glue_geometry([3 * p @ rotation for p in clouds], t=t @ rotation, labels=labels)
    for key in ("capacity", "dimension", "radius", "utility", "axis_alignment"):
        assert float(getattr(found, key)) == pytest.approx(float(getattr(expected, key)), rel=1e-9)


def test_mistakes_are_named() -> None:
    clouds = _clouds(4, 10)
    with pytest.raises(ValueError, match=r"t must be finite and of shape \(num_samples, 10\)"):
        gs.glue_geometry(clouds, t=torch.ones(4, 9))
    with pytest.raises(ValueError, match=r"labels must be \+1 and -1 in shape \(4, 3\)"):
        gs.glue_geometry(clouds, t=torch.ones(4, 10), labels=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="at least two"):
        gs.glue_geometry(clouds[:1])
