"""Radii: the regions of a layer are the power diagram of its centroids and radii."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from tests.measures.networks import NETWORKS, relu_mlp
from tests.reference import jacobian as slow


def power_distance(x: Tensor, centroids: Tensor, radii: Tensor) -> Tensor:
    """(n, R), ||x - mu||^2 - rad of every point to every region."""
    return (x[:, None] - centroids).square().sum(2) - radii


def points_on(plane: gs.Slice, n: int) -> Tensor:
    half_width = float(plane.polygon.max())
    return half_width * (2 * torch.rand(n, 2, dtype=torch.float64) - 1)


@pytest.mark.parametrize("name", ["relu_mlp", "mixed_chain", "wide_mlp", "scalar_output"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_radii_are_those_of_the_local_affine_map(name: str, chunk_size: int | None) -> None:
    model, x = NETWORKS[name]()
    rows = slow.jacobian(model, x).flatten(2)
    with torch.no_grad():
        outputs = model(x).reshape(len(x), -1)
    intercept = outputs - torch.einsum("nkd,nd->nk", rows, x.flatten(1))
    expected = rows.sum(1).square().sum(1) + 2 * intercept.sum(1)
    assert_close(gs.radii(model, x, chunk_size=chunk_size), expected)


def test_each_layer_has_the_radius_of_the_network_cut_there() -> None:
    model, x = relu_mlp()
    found = gs.layer_radii(model, x)
    assert list(found) == list(gs.layer_centroids(model, x))
    for depth, (name, radii) in enumerate(found.items(), start=1):
        assert_close(radii, gs.radii(model[:depth], x), msg=name)
    some = gs.layer_radii(model, x, layers=["3", "1"], chunk_size=2)
    assert list(some) == ["3", "1"]
    assert_close(some["1"], found["1"])


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2)])
@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_is_a_power_diagram(activation: nn.Module, bias: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 16, bias=bias), activation).double()
    if bias:
        model[0].bias.data -= 1
    plane = gs.Slice.random(torch.full((5,), 0.3), 4.0, torch.Generator().manual_seed(5))
    regions = gs.linear_regions(model, plane)
    assert len(regions) > 25
    inside = plane.points(regions.interior_points)
    centroids, radii = gs.centroids(model, inside), gs.radii(model, inside)
    assert_close(regions.centroids(), centroids)
    assert bool((radii < 0).any()) == bias  # imaginary spheres, which only biases make
    points = points_on(plane, 3000)
    power = power_distance(plane.points(points), centroids, radii)
    own = regions.locate(points)
    assert float((power.gather(1, own[:, None])[:, 0] - power.amin(1)).max()) < 1e-10
    clear = regions.distance_to_boundary(points) > 1e-6
    assert torch.equal(power.argmin(1)[clear], own[clear])
    assert int(clear.sum()) > 2900


def test_a_deep_network_is_one_within_each_region_of_the_layers_before() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU()).double()
    plane = gs.Slice.random(torch.zeros(4), 5.0, torch.Generator().manual_seed(2))
    regions = gs.linear_regions(model, plane)
    inside = plane.points(regions.interior_points)
    centroids, radii = gs.layer_centroids(model, inside), gs.layer_radii(model, inside)
    points = points_on(plane, 2000)
    x, own = plane.points(points), regions.locate(points)
    clear = regions.distance_to_boundary(points) > 1e-6
    patterns = regions.activation_patterns()
    # The first layer alone, whose cells hold several regions with one centroid and radius each.
    group = torch.unique(patterns["1"], dim=0, return_inverse=True)[1]
    first = power_distance(x, centroids["1"], radii["1"])
    assert torch.equal(group[first.argmin(1)][clear], group[own][clear])
    # The second, among the regions in the point's own cell of the first.
    second = power_distance(x, centroids["3"], radii["3"])
    within = second.masked_fill(group[own][:, None] != group, torch.inf)
    assert torch.equal(within.argmin(1)[clear], own[clear])
    assert len(regions) > 1.5 * len(torch.unique(group))
    assert not torch.equal(second.argmin(1)[clear], own[clear])  # among all regions it is not


def test_a_layer_without_the_batch_first_has_no_radius() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Identity(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x.mT).mT)

    x = torch.randn(4, 3)
    gs.layer_centroids(Transposed(), x, layers=["inner"])
    with pytest.raises(ValueError, match="'inner', whose outputs have 3 entries"):
        gs.layer_radii(Transposed(), x, layers=["inner"])
