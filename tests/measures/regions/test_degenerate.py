"""Lines that coincide, meet in one point, pass through vertices, or are not there at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import grokscope as gs
from tests.measures.regions.networks import mlp, mlp_steps
from tests.measures.regions.test_partition import check_against_twin, check_planar


def square(half_width: float = 1.0) -> gs.Slice:
    return gs.Slice(torch.zeros(2), torch.eye(2), half_width)


def layer(weight: list[list[float]], bias: list[float] | None) -> nn.Linear:
    linear = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    linear.weight.data = torch.tensor(weight)
    if bias is not None:
        linear.bias.data = torch.tensor(bias)
    return linear


def test_duplicated_and_scaled_neurons_cut_once() -> None:
    weight = [
        [1.0, 0.25],
        [1.0, 0.25],
        [-1.0, -0.25],
        [2.0**27, 2.0**25],
        [2**-27, 2**-29],
        [0.7, -1.0],
    ]
    bias = [0.125, 0.125, -0.125, 2.0**24, 2**-30, 0.2]
    regions = gs.linear_regions(nn.Sequential(layer(weight, bias), nn.ReLU()), square())
    assert len(regions) == 4
    check_planar(regions)


def test_rounding_is_not_taken_for_a_neuron() -> None:
    # The second layer is zero but for rounding, and the third sees nothing else.
    for seed in range(5):
        torch.manual_seed(seed)
        first, second, third = (
            nn.Linear(2, 12),
            nn.Linear(12, 6, bias=False),
            nn.Linear(6, 5, bias=False),
        )
        model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU()).double()
        first.weight.data[6:], first.bias.data[6:] = first.weight[:6] / 3, first.bias[:6] / 3
        second.weight.data[:, 6:] = -3 * second.weight[:, :6]
        points = gs.Slice(torch.zeros(2), torch.eye(2), 3.0)
        with torch.no_grad():
            noise = model[:4](torch.randn(100, 2, dtype=torch.float64))
        assert 0 < float(noise.max()) < 1e-15
        regions = gs.linear_regions(model, points)
        check_planar(regions)
        assert list(regions.counts.values()) == [len(regions)] * 3
        assert len(regions) == len(gs.linear_regions(model[:2], points))


def test_three_classes_tied_in_pairs_at_the_corners() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Outputs (1, 1, 0), (0, 1, 1) and (1, 0, 1) at the corners.
    model = layer([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [1.0, 1.0, 0.0])
    regions = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2), polygon=corners))
    boundary = regions.decision_boundary()
    assert len(boundary) == 3
    center = torch.tensor([[1.0, 1.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(
        regions.distance_to_decision_boundary(center), torch.zeros(1, dtype=torch.float64)
    )
    assert sorted(sorted(pair) for pair in boundary.classes.tolist()) == [[0, 1], [0, 2], [1, 2]]


def test_lines_through_one_point() -> None:
    turn = torch.linspace(0, torch.pi, 12)[:-1]
    first = nn.Linear(2, 11, bias=False)
    first.weight.data = torch.stack([turn.cos(), turn.sin()], dim=1)
    regions = gs.linear_regions(nn.Sequential(first, nn.ReLU()), square())
    assert len(regions) == 22
    check_planar(regions)
    degree = torch.bincount(regions.edges.flatten())
    assert int(degree.max()) == 22


@pytest.mark.parametrize("widths", [[2, 6, 5, 3], [2, 4, 4, 4, 2]])
def test_integer_weights(widths: list[int]) -> None:
    for seed in range(8):
        model = mlp(widths)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
        regions = gs.linear_regions(model, square(2.0))
        check_planar(regions)
        check_against_twin(regions, mlp_steps(model), atol=1e-12)


def test_zero_bias_through_the_origin() -> None:
    for seed in range(8):
        model = mlp([3, 6, 5, 4], bias=False)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.data = torch.randint(-9, 10, parameter.shape, generator=generator) / 8
        basis = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.25]])
        regions = gs.linear_regions(model, gs.Slice(torch.zeros(3), basis, 2.0))
        check_planar(regions)
        check_against_twin(regions, mlp_steps(model), atol=1e-12)


def test_a_line_along_the_frame_and_through_corners() -> None:
    weight = [[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.0, 1.0]]
    regions = gs.linear_regions(
        nn.Sequential(layer(weight, [-1.0, 0.0, 0.0, 1.0]), nn.ReLU()), square()
    )
    assert len(regions) == 4
    assert len(regions.vertices) == 5
    check_planar(regions)


def test_dead_neurons_and_all_zero_weights() -> None:
    model = mlp([2, 5, 4, 3])
    model[0].bias.data.fill_(-100.0)
    assert len(gs.linear_regions(model, square())) == 1
    for parameter in model.parameters():
        parameter.data.zero_()
    regions = gs.linear_regions(model, square())
    assert len(regions) == 1
    assert len(regions.merged()) == 1
    assert len(regions.decision_boundary()) == 0
    assert bool(torch.isinf(regions.distance_to_boundary(torch.zeros(1, 2))).all())
    check_planar(regions)


def test_tiny_weights_are_not_taken_for_zero() -> None:
    model = mlp([2, 8, 6])
    regions = gs.linear_regions(model, square(4.0))
    model[0].weight.data *= 1e-20
    model[0].bias.data *= 1e-20
    model[2].bias.data *= 1e-20
    model = nn.Sequential(*model, nn.ReLU()).double()
    small = gs.linear_regions(model, square(4.0))
    check_planar(small)
    assert small.counts["1"] == regions.counts["1"]


def test_slivers_are_kept() -> None:
    # Lines a millionth of a degree apart, crossing inside.
    weight = [[1.0, 0.0], [1.0, 1e-8]]
    model = nn.Sequential(layer(weight, [0.0, 0.0]), nn.ReLU())
    regions = gs.linear_regions(model, square())
    assert len(regions) == 4
    assert float(regions.areas.min()) == pytest.approx(0.5e-8, rel=1e-6)
    check_planar(regions)


def test_many_parallel_lines() -> None:
    bias = torch.linspace(-0.99, 0.99, 301)
    first = nn.Linear(2, 301)
    first.weight.data = torch.tensor([[1.0, 0.5]]).repeat(301, 1)
    first.bias.data = bias
    regions = gs.linear_regions(nn.Sequential(first, nn.ReLU()), square())
    assert len(regions) == 302
    check_planar(regions)


def test_no_kinks_at_all() -> None:
    regions = gs.linear_regions(nn.Linear(2, 3), square())
    assert len(regions) == 1
    assert regions.counts == {}
    assert regions.activation_patterns() == {}
    assert float(regions.areas) == pytest.approx(4.0)
    assert len(regions.neighbours(0)) == 0


def test_noisy_signs_do_not_tear_the_mesh() -> None:
    """Values that no affine function has still leave a planar mesh of the whole domain."""
    from grokscope.measures.regions.mesh import Mesh
    from grokscope.measures.regions.split import split

    generator = torch.Generator().manual_seed(0)
    mesh = Mesh.polygons([square().polygon.numpy()])
    for width in (30, 8):
        shape = (mesh.num_vertices, width)
        values = torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
        labels = torch.zeros(width, 3, dtype=torch.int64).numpy()
        mesh, parents = split(mesh, values, 0 * values[0], labels)
        assert mesh.num_vertices - len(mesh.edges) + mesh.num_faces == 1
        assert len(parents) == mesh.num_faces
        assert float(mesh.areas.sum()) == pytest.approx(4.0)
