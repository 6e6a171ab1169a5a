"""What a partition answers, against the model itself and against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from tests.measures.regions.networks import ConvNet, ResidualNet, mlp, settle_norms


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    torch.manual_seed(4)
    return mlp([5, 16, 12, 3])


@pytest.fixture(scope="module")
def regions(model: nn.Sequential) -> gs.LinearRegions:
    plane = gs.Slice.random(torch.full((5,), 0.1), 3.0, torch.Generator().manual_seed(5))
    return gs.linear_regions(model, plane)


def uniform(n: int, half_width: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return half_width * (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1)


def own_patterns(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own activation pattern at inputs x, read by hooks."""
    model = model.double()
    seen: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.MaxPool2d):
            indices = nn.functional.max_pool2d(
                inputs[0], module.kernel_size, module.stride, module.padding, return_indices=True
            )[1]
            # A tie at zero is the first of the window on both sides.
            seen.append(torch.where(output > 0, indices, -1).flatten(1))
        else:
            seen.append((inputs[0] > 0).long().flatten(1))

    handles = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, nn.ReLU | nn.MaxPool2d)
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return torch.cat(seen, dim=1)


def test_locate_agrees_with_the_models_own_pattern(
    model: nn.Sequential, regions: gs.LinearRegions
) -> None:
    points = uniform(10_000, 3.0)
    cells = regions.locate(points)
    assert int(cells.min()) >= 0
    own = own_patterns(model, regions.slice.points(points))
    ours = torch.cat(list(regions.activation_patterns().values()), dim=1)
    assert torch.equal(own, ours[cells].long())
    assert len(torch.unique(ours, dim=0)) == len(regions)
    every = own_patterns(model, regions.slice.points(regions.interior_points))
    assert torch.equal(regions.locate(regions.interior_points), torch.arange(len(regions)))
    assert torch.equal(every, ours.long())


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)])
def test_a_dense_grid_sees_no_more_regions_and_the_same_cells(pool: nn.Module) -> None:
    torch.manual_seed(0)
    model = settle_norms(ConvNet(pool, side=6), (1, 6, 6))
    plane = gs.Slice.random(torch.randn(1, 6, 6), 1.0, torch.Generator().manual_seed(1))
    regions = gs.linear_regions(model, plane)
    steps = torch.linspace(-0.999, 0.999, 250, dtype=torch.float64)
    points = torch.cartesian_prod(steps, steps)
    own = torch.unique(own_patterns(model, plane.points(points)), dim=0, return_inverse=True)[1]
    cells = regions.locate(points)
    clear = regions.distance_to_boundary(points) > 1e-9
    own, cells = own[clear], cells[clear]
    assert int(own.max()) + 1 <= len(regions)
    assert len(torch.unique(torch.stack([own, cells]), dim=1).T) == len(torch.unique(cells))
    assert len(torch.unique(cells)) == len(torch.unique(own)) > 0.6 * len(regions)


def test_outside_is_minus_one(regions: gs.LinearRegions) -> None:
    points = torch.tensor([[3.1, 0.0], [0.0, -9.0], [3.0, 3.0], [0.0, 0.0]])
    assert regions.locate(points).tolist()[:2] == [-1, -1]
    assert int(regions.locate(points)[2:].min()) >= 0
    assert bool(torch.isnan(regions.distance_to_boundary(points)[:2]).all())
    assert regions.locate(torch.zeros(0, 2)).shape == (0,)


def test_affine_maps_centroids_and_norms(model: nn.Sequential, regions: gs.LinearRegions) -> None:
    points = uniform(400, 3.0, seed=1)
    cells = regions.locate(points)
    maps = regions.affine_maps()
    x = regions.slice.points(points)
    with torch.no_grad():
        outputs = model.double()(x)
    found = torch.einsum("nkd,nd->nk", maps.A[cells], x) + maps.b[cells]
    torch.testing.assert_close(found, outputs, atol=1e-10, rtol=1e-10)
    on_slice = regions.slice_maps(cells)
    found = torch.einsum("nki,ni->nk", on_slice.A, points) + on_slice.b
    torch.testing.assert_close(found, outputs, atol=1e-10, rtol=1e-10)
    some = torch.tensor([7, 3, 11])
    torch.testing.assert_close(regions.centroids(some), maps.A[some].sum(1))
    torch.testing.assert_close(regions.operator_norms(), torch.linalg.matrix_norm(maps.A))
    spectral = torch.linalg.matrix_norm(maps.A[some], 2)
    torch.testing.assert_close(regions.operator_norms(some, ord="spectral"), spectral)
    in_chunks = regions.affine_maps(chunk_size=7)
    torch.testing.assert_close(in_chunks.A, maps.A, atol=1e-14, rtol=0)


def test_each_edge_is_the_zero_set_of_its_neuron(
    model: nn.Sequential, regions: gs.LinearRegions
) -> None:
    middle = regions.vertices[regions.edges].mean(1)
    x = regions.slice.points(middle)
    patterns = regions.activation_patterns()
    left, right = regions.edge_cells.T
    inner = right >= 0
    with torch.no_grad():
        first = model.double()[0](x)
        second = model[2](first.relu())
    for number, (name, value) in enumerate(zip(("1", "3"), (first, second), strict=True)):
        assert regions.layers[number] == name
        mine = regions.edge_layer == number
        at = value[mine, regions.edge_neuron[mine]]
        assert float(at.abs().max()) < 1e-12
        pattern = patterns[name]
        differ = pattern[left[inner]] != pattern[right[inner]]
        own = regions.edge_neuron[inner][mine[inner]]
        assert bool(differ[mine[inner], own].all())
    total = sum((patterns[n][left[inner]] != patterns[n][right[inner]]).sum(1) for n in patterns)
    assert bool((total == 1).all())


def test_neighbours(regions: gs.LinearRegions) -> None:
    left, right = regions.edge_cells.T
    for cell in (0, 5, len(regions) - 1):
        expected = {int(b) for a, b in zip(left, right, strict=True) if a == cell and b >= 0}
        expected |= {int(a) for a, b in zip(left, right, strict=True) if b == cell}
        assert set(regions.neighbours(cell).tolist()) == expected
    with pytest.raises(IndexError, match="cell must be in"):
        regions.neighbours(len(regions))


def test_distances_equal_brute_force(regions: gs.LinearRegions) -> None:
    points = uniform(150, 3.0, seed=2)
    start, end = regions.vertices[regions.edges[regions.edge_layer >= 0]].unbind(1)
    along = end - start
    t = ((points[:, None] - start) * along).sum(2) / (along**2).sum(1)
    apart = (points[:, None] - start - t.clamp(0, 1)[..., None] * along).norm(dim=2)
    torch.testing.assert_close(regions.distance_to_boundary(points), apart.amin(1))
    for radius in (0.1, 0.7):
        close = apart <= radius
        unit = regions.edge_layer * 1000 + regions.edge_neuron
        unit = unit[regions.edge_layer >= 0]
        neurons = [len(unit[row].unique()) for row in close]
        found = regions.local_complexity(points, radius, count="neurons")
        assert found.tolist() == neurons
        sides = regions.edge_cells[regions.edge_layer >= 0]
        own = regions.locate(points)
        cells = [
            len({*sides[row].flatten().tolist(), int(i)}) for row, i in zip(close, own, strict=True)
        ]
        assert regions.local_complexity(points, radius).tolist() == cells


def test_the_density_of_boundaries_equals_many_short_steps_along_them(
    regions: gs.LinearRegions,
) -> None:
    points, radius = uniform(40, 2.4, seed=5), 0.5
    start, end = regions.vertices[regions.edges[regions.edge_layer >= 0]].unbind(1)
    steps = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    places = start[:, None] + steps[:, None] * (end - start)[:, None]
    length = (end - start).norm(dim=1)
    slow = [
        float((((places - point).norm(dim=2) <= radius).double().mean(1) * length).sum())
        for point in points
    ]
    found = regions.boundary_density(points, radius)
    expected = torch.tensor(slow, dtype=torch.float64) / (torch.pi * radius**2)
    assert float(expected.min()) > 1
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    near_the_frame = torch.tensor([[2.6, 0.0], [0.0, 2.49], [9.0, 0.0]], dtype=torch.float64)
    assert torch.isnan(regions.boundary_density(near_the_frame, radius)).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="radius must be positive"):
        regions.boundary_density(points, 0.0)


def test_the_density_of_one_line_is_known() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    model[0].weight.data, model[0].bias.data = torch.tensor([[1.0, 0.0]]), torch.tensor([0.0])
    plane = gs.Slice(torch.zeros(2), torch.tensor([[2.0, 0.0], [2.0, 0.5]]), 1.0)
    regions = gs.linear_regions(model, plane)
    # At distance 0.06 from the line a disc of radius 0.1 holds 0.16 of it.
    at = plane.coordinates(torch.tensor([[0.06, 0.0], [0.0, 0.05], [0.2, 0.0]]))
    expected = torch.tensor([0.16, 0.2, 0.0], dtype=torch.float64) / (torch.pi * 0.01)
    torch.testing.assert_close(regions.boundary_density(at, 0.1), expected, atol=1e-6, rtol=1e-6)


def test_distances_are_lengths_in_input_space() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    model[0].weight.data, model[0].bias.data = torch.tensor([[1.0, 0.0]]), torch.tensor([0.0])
    plane = gs.Slice(torch.zeros(2), torch.tensor([[2.0, 0.0], [2.0, 0.5]]), 1.0)
    regions = gs.linear_regions(model, plane)
    point = torch.tensor([[0.3, 0.1]])
    # x = (0.8, 0.05), and the boundary is the line x_0 = 0 within the slice.
    torch.testing.assert_close(
        regions.distance_to_boundary(point), torch.tensor([0.8], dtype=torch.float64)
    )
    assert regions.local_complexity(point, 0.79).tolist() == [1]
    assert regions.local_complexity(point, 0.81).tolist() == [2]


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_the_decision_boundary(outputs: int) -> None:
    torch.manual_seed(outputs)
    model = mlp([3, 12, 8, outputs]).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    plane = gs.Slice.random(torch.zeros(3), 2.0, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model[-1].bias -= model(plane.points(uniform(100, 2.0))).mean(0)
    regions = gs.linear_regions(model, plane)
    boundary = regions.decision_boundary()
    assert len(boundary) > 5

    def classes(points: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model(plane.points(points))
        return (logits[:, 0] > 0).long() if outputs == 1 else logits.argmax(1)

    middle = boundary.segments.mean(1)
    along = boundary.segments[:, 1] - boundary.segments[:, 0]
    normal = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    step = 1e-9 * normal / normal.norm(dim=1, keepdim=True)
    long = along.norm(dim=1) > 1e-6
    assert torch.equal(classes(middle + step)[long], boundary.classes[long, 0])
    assert torch.equal(classes(middle - step)[long], boundary.classes[long, 1])
    inside = regions.distance_to_boundary(middle) > 1e-9
    assert torch.equal(regions.locate(middle)[inside], boundary.cells[inside])
    # Any straight way between points of two classes crosses it: nothing is missing.
    points = uniform(2000, 1.99, seed=3)
    near = points + 0.1 * uniform(2000, 1.0, seed=4)
    near = near.clamp(-2, 2)
    changed = classes(points) != classes(near)
    reach = (near - points).norm(dim=1)[changed]
    assert int(changed.sum()) > 10
    assert bool((regions.distance_to_decision_boundary(points[changed]) <= reach).all())


def test_a_window_of_equals_has_the_place_of_its_first() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Unflatten(1, (1, 3)), nn.MaxPool1d(3))
    model[0].weight.data = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    model[0].bias.data = torch.zeros(3)
    regions = gs.linear_regions(
        nn.Sequential(model, nn.Flatten()), gs.Slice(torch.zeros(2), torch.eye(2))
    )
    places = regions.activation_patterns()["0.3"][:, 0]
    corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.2], [-0.5, 0.5]])
    assert places[regions.locate(corners)].tolist() == [0, 0, 0, 2]
    assert len(regions) == 5


def test_a_decision_boundary_along_an_edge_is_found() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[0].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    model[0].bias.data = torch.zeros(2)
    boundary = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2))).decision_boundary()
    assert len(boundary) == 1
    assert float(boundary.segments[0, :, 0].abs().max()) == 0.0
    assert sorted(boundary.classes[0].tolist()) == [0, 1]


def test_merged_cells_have_one_map_and_neighbours_another() -> None:
    model = mlp([2, 6, 4, 2])
    model[2].weight.data[:, 0] = 0  # nothing listens to the first neuron
    model[4].weight.data[:, 1] = 0
    regions = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2), 3.0))
    merged = regions.merged()
    assert len(merged) < len(regions)
    assert float(merged.areas.sum()) == pytest.approx(float(regions.areas.sum()))
    maps = regions.slice_maps()
    both = torch.cat([maps.A, maps.b[..., None]], dim=2).flatten(1)
    left, right = regions.edge_cells[regions.edge_cells[:, 1] >= 0].T
    same = torch.isclose(both[left], both[right], atol=1e-12).all(1)
    assert torch.equal(same, merged.labels[left] == merged.labels[right])
    at_the_edge = regions.edge_cells[:, 1] < 0
    assert torch.equal(merged.boundary[~at_the_edge], ~same)
    assert int(at_the_edge.sum()) >= 4
    assert bool(merged.boundary[at_the_edge].all())
    kept = gs.linear_regions(mlp([2, 6, 4, 2]), regions.slice)
    assert len(kept.merged()) <= len(kept)


def test_maps_that_differ_a_little_are_not_merged() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.999), nn.Linear(4, 2))
    model[0].bias.data.zero_()
    regions = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2)))
    assert len(regions.merged()) == len(regions) == 8
    assert len(regions.merged(tolerance=0.1)) == 1


def test_cells_are_checked(regions: gs.LinearRegions) -> None:
    with pytest.raises(IndexError, match="cells must be in"):
        regions.affine_maps(torch.tensor([len(regions)]))
    with pytest.raises(ValueError, match="slice coordinates of shape"):
        regions.locate(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="NaN"):
        regions.locate(torch.full((1, 2), float("nan")))
    with pytest.raises(ValueError, match="radius must be positive"):
        regions.local_complexity(torch.zeros(1, 2), 0.0)
    assert regions.polygons[-1].shape[1] == 2
    assert len(regions.polygons[:3]) == 3
    with pytest.raises(IndexError):
        regions.polygons[len(regions)]


def test_residual_cells_in_a_polygonal_domain() -> None:
    model = settle_norms(ResidualNet(), (2, 2))
    triangle = torch.tensor([[0.0, 1.5], [-1.0, -1.0], [2.0, -0.5]])
    plane = gs.Slice(torch.zeros(2, 2), torch.eye(4)[:2].reshape(2, 2, 2), polygon=triangle)
    regions = gs.linear_regions(model, plane)
    wide = gs.linear_regions(model, gs.Slice(plane.origin, plane.basis, 2.0))
    points = uniform(2000, 2.0)
    cells = regions.locate(points)
    inside = cells >= 0
    assert 200 < int(inside.sum()) < 1000
    pairs = torch.unique(torch.stack([cells[inside], wide.locate(points[inside])]), dim=1)
    assert len(torch.unique(pairs[0])) == pairs.shape[1]


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("then", [False, True])
def test_regions_are_measured_inside_and_outside_of_inference_mode(
    within: bool, then: bool
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    plane = gs.Slice(torch.zeros(4), torch.eye(4)[:2])
    right = gs.linear_regions(model, plane)
    with torch.inference_mode(within):
        regions = gs.linear_regions(model, plane)
    with torch.inference_mode(then):
        for name in ("affine_maps", "slice_maps"):
            assert torch.equal(getattr(regions, name)().A, getattr(right, name)().A)
        for name in ("centroids", "operator_norms", "classes"):
            assert torch.equal(getattr(regions, name)(), getattr(right, name)())
        assert torch.equal(regions.merged().labels, right.merged().labels)


def test_a_model_that_draws_leaves_the_global_random_state_alone() -> None:
    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(3)

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), Noisy())
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on chance"):
        gs.linear_regions(model, gs.Slice(torch.zeros(4), torch.eye(4)[:2]))
    assert torch.equal(torch.get_rng_state(), state)
