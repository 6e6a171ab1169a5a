"""The partition against recorded results, an exact twin, and Euler's formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import grokscope as gs
from tests.measures.regions.networks import CASES, Case, mlp, mlp_steps
from tests.reference import regions as exact


def check_planar(regions: gs.LinearRegions) -> None:
    """Euler's formula, areas that add up, cells that turn left, edges with the right sides."""
    num_vertices, num_edges = len(regions.vertices), len(regions.edges)
    assert num_vertices - num_edges + len(regions) == 1
    domain = torch.cat([regions.slice.polygon, regions.slice.polygon[:1]])
    cross = domain[:-1, 0] * domain[1:, 1] - domain[:-1, 1] * domain[1:, 0]
    assert float(regions.areas.sum()) == pytest.approx(float(cross.sum()) / 2, rel=1e-12)
    assert float(regions.areas.min()) > -1e-15
    left, right = regions.edge_cells.T
    assert bool((left >= 0).all())
    assert torch.equal(right < 0, regions.edge_layer < 0)


def check_against_twin(
    regions: gs.LinearRegions, steps: list, atol: float = 1e-10
) -> list[tuple[list, list]]:
    plane = regions.slice
    start = exact.forms(plane.origin, plane.basis)
    twin = exact.cells(steps, start, plane.polygon.tolist())
    assert len(regions) == len(twin)
    areas = sorted(float(exact.area(outline)) for outline, _ in twin)
    np.testing.assert_allclose(np.sort(regions.areas.numpy()), areas, atol=10 * atol)
    corners = {point for outline, _ in twin for point in outline}
    assert len(regions.vertices) == len(corners)
    truth = torch.tensor([[float(a), float(b)] for a, b in corners], dtype=torch.float64)
    apart = (regions.vertices[:, None] - truth).norm(dim=2)
    assert float(apart.amin(0).max()) < atol
    assert float(apart.amin(1).max()) < atol
    return twin


@pytest.mark.parametrize(
    ("net", "per_layer", "vertices", "edges"),
    [("rand_50x50", [625, 1455], 1526, 2980), ("trained_100x100", [2281, 7373], 7539, 14911)],
)
def test_recorded_counts(
    shared_reference: Path, net: str, per_layer: list[int], vertices: int, edges: int
) -> None:
    folder = shared_reference / "regions"
    recorded = json.loads((folder / "region_counts.json").read_text())["nets"][net]
    arrays = np.load(folder / f"{net}.npz")
    plane = np.load(folder / "slice_mnist012.npz")
    model = mlp([784, *[len(arrays[f"b{i}"]) for i in range(3)]])
    for i, layer in enumerate(model[::2]):
        layer.weight.data = torch.from_numpy(arrays[f"W{i}"])
        layer.bias.data = torch.from_numpy(arrays[f"b{i}"])
    a, b, c = torch.from_numpy(plane["anchors"])
    on = gs.Slice.through(a, b, c, half_width=recorded["R"])
    np.testing.assert_allclose(on.basis, plane["basis"], atol=1e-12)
    regions = gs.linear_regions(model, on)
    assert list(regions.counts.values()) == recorded["regions_per_layer"] == per_layer
    assert len(regions.vertices) == recorded["vertices"] == vertices
    assert len(regions.edges) == recorded["edges"] == edges
    assert float(regions.areas.sum()) == pytest.approx(recorded["area_sum"], rel=1e-13)
    assert float(regions.areas.median()) == pytest.approx(recorded["area_median"], rel=1e-9)
    assert float(regions.areas.min()) == pytest.approx(recorded["area_min"], rel=1e-4)
    check_planar(regions)


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_equals_its_exact_twin(name: str) -> None:
    torch.manual_seed(3)
    case: Case = CASES[name]()
    generator = torch.Generator().manual_seed(1)
    origin = 0.3 * torch.randn(case.shape, generator=generator)
    plane = gs.Slice.random(origin, case.half_width, generator)
    regions = gs.linear_regions(case.model, plane)
    assert len(regions) > 15
    check_planar(regions)
    twin = check_against_twin(regions, case.steps)
    maps = regions.slice_maps()
    for outline, forms in twin[:: max(1, len(twin) // 40)]:
        center = [float(sum(axis) / len(outline)) for axis in zip(*outline, strict=True)]
        cell = int(regions.locate(torch.tensor([center], dtype=torch.float64)))
        truth = torch.tensor([[float(v) for v in form] for form in forms], dtype=torch.float64)
        torch.testing.assert_close(maps.A[cell], truth[:, :2], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(maps.b[cell], truth[:, 2], atol=1e-9, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 24), min_size=1, max_size=3),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    corners=st.integers(3, 7),
)
def test_euler_and_areas(
    widths: list[int], bias: bool, seed: int, scale: float, corners: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = mlp([4, *widths, 3], bias)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    turn = torch.arange(corners) * (2 * torch.pi / corners)
    polygon = scale * torch.stack([turn.cos(), turn.sin()], dim=1)
    plane = gs.Slice.random(0.1 * scale * torch.randn(4, generator=generator), generator=generator)
    plane = gs.Slice(plane.origin, plane.basis, polygon=polygon)
    check_planar(gs.linear_regions(model, plane))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), bias=st.booleans())
def test_small_networks_equal_the_exact_twin(seed: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = mlp([2, 7, 5, 3], bias)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    plane = gs.Slice(torch.randn(2, generator=generator), torch.eye(2), half_width=2.0)
    check_against_twin(gs.linear_regions(model, plane), mlp_steps(model), atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_lines_cut_at_once_and_in_rounds_make_the_same_cells(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grokscope.measures.regions import split
    from grokscope.measures.regions.arrangement import Arrangement

    case = CASES[name]()
    plane = gs.Slice.random(
        torch.zeros(case.shape), case.half_width, torch.Generator().manual_seed(3)
    )
    at_once = gs.linear_regions(case.model, plane)
    in_rounds: list[int] = []

    def leave_all(mesh: Any, values: Any, *_: Any) -> Arrangement:
        in_rounds.append(mesh.num_faces)
        every = np.arange(mesh.num_faces)
        return Arrangement(mesh, values, every, every)

    monkeypatch.setattr(split, "arrange", leave_all)
    rounds = gs.linear_regions(case.model, plane)
    assert in_rounds
    assert rounds.counts == at_once.counts
    assert len(rounds.vertices) == len(at_once.vertices)
    assert len(rounds.edges) == len(at_once.edges)
    cells = rounds.locate(at_once.interior_points)
    assert torch.equal(cells.sort().values, torch.arange(len(rounds)))
    torch.testing.assert_close(rounds.areas[cells], at_once.areas, atol=1e-13, rtol=1e-9)


def test_only_degenerate_cells_are_left_to_the_rounds() -> None:
    from grokscope.measures.regions.arrangement import arrange
    from grokscope.measures.regions.mesh import Mesh

    # Two cells beside the line y = 0; three lines meet in one point of the upper one.
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    labels, tolerance = np.zeros((1, 3), dtype=np.int64), np.array([1e-12])
    both = arrange(Mesh.polygons([corners]), corners[:, 1:], tolerance, labels, lambda _: None)
    assert both.mesh.num_faces == 2
    assert not len(both.left)
    x, y = both.mesh.vertices.T
    lines = np.stack([x, x + (y - 0.5), x - (y - 0.5), y + 0.5 + 0.1 * x], axis=1)
    found = arrange(
        both.mesh, lines, np.full(4, 1e-12), np.zeros((4, 3), dtype=int), lambda _: None
    )
    (upper,) = found.left
    assert both.mesh.centers[found.parents[upper], 1] > 0
    # In the lower cell 1 + 4 lines + the two points where the last meets the first and the third.
    assert found.mesh.num_faces == 1 + 7
    assert float(found.mesh.areas.sum()) == pytest.approx(4.0)


@pytest.mark.parametrize("block", [1, 7])
def test_blocks_of_functions_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokscope.measures.regions import network, refine

    case = CASES["max pool"]()
    plane = gs.Slice.random(torch.zeros(case.shape), 0.5, torch.Generator().manual_seed(2))
    whole = gs.linear_regions(case.model, plane)
    monkeypatch.setattr(refine, "_BLOCK_COLUMNS", block)
    monkeypatch.setattr(refine, "_LEAST_COLUMNS", 1)
    monkeypatch.setattr(network, "_BATCH_ENTRIES", 100)
    parts = gs.linear_regions(case.model, plane)
    assert parts.counts == whole.counts
    assert len(parts.vertices) == len(whole.vertices)
    torch.testing.assert_close(parts.areas.sort().values, whole.areas.sort().values)


def test_the_default_device_is_of_no_account() -> None:
    cases = [CASES[name]() for name in ("padded max pool", "maximum and minimum", "mlp")]
    models = [case.model for case in cases]
    planes = [
        gs.Slice.random(torch.zeros(case.shape), 2.0, torch.Generator().manual_seed(2))
        for case in cases
    ]
    with torch.no_grad():  # two classes at the center of the last plane, whose outputs are equal
        models[-1][-1].bias -= models[-1](planes[-1].origin.unsqueeze(0).double())[0]
    found: list[list[int]] = []
    with torch.device("meta"):  # whatever is made without a device has no values
        for model, plane in zip(models, planes, strict=True):
            regions = gs.linear_regions(model, plane)
            assert len(regions) == len(regions.activation_patterns()[regions.layers[0]])
            assert len(regions.affine_maps().b) == len(regions.merged().labels)
            found.append([len(regions), len(regions.decision_boundary()), len(regions.merged())])
    for model, plane, own in zip(models, planes, found, strict=True):
        plain = gs.linear_regions(model, plane)
        assert own == [len(plain), len(plain.decision_boundary()), len(plain.merged())]
    assert found[-1][1] > 0


@pytest.mark.parametrize("name", ["mlp", "max pool", "residual"])
def test_many_slices_at_once_are_each_as_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from grokscope.measures.regions import network

    case = CASES[name]()
    generator = torch.Generator().manual_seed(1)
    planes = [
        gs.Slice.random(0.5 * torch.randn(case.shape, generator=generator), 0.4, generator)
        for _ in range(6)
    ]
    triangle = torch.tensor([[0.0, 0.5], [-0.5, -0.25], [0.5, -0.5]])
    planes.append(gs.Slice(planes[0].origin, planes[1].basis, polygon=triangle))
    together = gs.linear_regions(case.model, planes)
    monkeypatch.setattr(network, "_BATCH_ENTRIES", 1)  # groups of four
    in_groups = gs.linear_regions(case.model, tuple(planes))
    assert sum(map(len, together)) > 25
    for plane, *found in zip(planes, together, in_groups, strict=True):
        alone = gs.linear_regions(case.model, plane)
        for one in found:
            assert one.slice is plane
            assert one.counts == alone.counts
            check_planar(one)
            cells = one.locate(alone.interior_points)
            assert torch.equal(cells.sort().values, torch.arange(len(alone)))
            torch.testing.assert_close(one.areas[cells], alone.areas, atol=1e-12, rtol=1e-9)
            assert len(one.vertices) == len(alone.vertices)
            torch.testing.assert_close(one.slice_maps(cells), alone.slice_maps())
            for layer, pattern in alone.activation_patterns().items():
                assert torch.equal(one.activation_patterns(cells)[layer], pattern)


def test_one_slice_in_a_list_gives_a_list() -> None:
    model = mlp([2, 5, 2])
    plane = gs.Slice(torch.zeros(2), torch.eye(2))
    (only,) = gs.linear_regions(model, [plane])
    assert len(only) == len(gs.linear_regions(model, plane))
    with pytest.raises(ValueError, match="non-empty"):
        gs.linear_regions(model, [])
    with pytest.raises(TypeError, match="Slice"):
        gs.linear_regions(model, [plane, torch.zeros(2)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"one shape: got \(2,\) and \(3,\)"):
        gs.linear_regions(model, [plane, gs.Slice(torch.zeros(3), torch.eye(3)[:2])])
    cells = len(gs.linear_regions(model, plane))
    with pytest.raises(RuntimeError, match="max_regions"):
        gs.linear_regions(model, [plane] * 3, max_regions=3 * cells - 1)
    halves = gs.linear_regions(model, [plane] * 3, max_regions=3 * cells - 1, partial=True)
    assert [part.complete for part in halves] == [False] * 3


def test_units_far_from_a_kink_change_nothing() -> None:
    """More units than fit in a block, nearly all of which stay on one piece."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(400, 3)
    )
    plane = gs.Slice.random(torch.randn(1, 13, 13), 0.05, torch.Generator().manual_seed(1))
    regions = gs.linear_regions(model, plane)
    assert 30 < len(regions) < 2000
    check_planar(regions)
    points = 0.05 * (2 * torch.rand(3000, 2, dtype=torch.float64) - 1)
    cells = regions.locate(points)
    maps = regions.slice_maps(cells)
    with torch.no_grad():
        outputs = model.double()(plane.points(points))
    found = torch.einsum("nki,ni->nk", maps.A, points) + maps.b
    torch.testing.assert_close(found, outputs, atol=1e-10, rtol=1e-10)
    assert len(torch.unique(cells)) > 0.6 * len(regions)


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, gs.View]
)
def test_wrapped_models_are_unwrapped(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = mlp([2, 6, 5, 3])
    plane = gs.Slice(torch.zeros(2), torch.eye(2), 2.0)
    plain = gs.linear_regions(model, plane)
    assert gs.linear_regions(wrap(model), plane).counts == plain.counts
    nested = nn.DataParallel(wrap(model))
    assert gs.linear_regions(nested, plane).counts == plain.counts


def test_a_model_compiled_in_place_and_a_distributed_one(tmp_path: Path) -> None:
    model = mlp([2, 6, 5, 3])
    plane = gs.Slice(torch.zeros(2), torch.eye(2), 2.0)
    plain = gs.linear_regions(model, plane)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        assert gs.linear_regions(parallel, plane).counts == plain.counts
    finally:
        torch.distributed.barrier()  # or its threads may wait for the lock that their end holds
        torch.distributed.destroy_process_group()
    model.compile(backend="eager")
    assert gs.linear_regions(model, plane).counts == plain.counts


def test_float32_and_float64_models_agree() -> None:
    model = mlp([3, 8, 6, 2])
    plane = gs.Slice.random(torch.zeros(3), 2.0, torch.Generator().manual_seed(0))
    single = gs.linear_regions(model, plane)
    assert next(model.parameters()).dtype == torch.float32
    double = gs.linear_regions(model.double(), plane)
    assert torch.equal(single.vertices, double.vertices)


def scaled_forward(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    return nn.Sequential.forward(layers, 3 * x - 1)


@pytest.mark.parametrize("way", ["pre-hook", "forward"])
def test_a_sequence_that_computes_more_than_its_layers_is_traced(way: str) -> None:
    torch.manual_seed(0)
    first, *others = nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)
    part = nn.Sequential(*others[:2])
    model = nn.Sequential(first, part, *others[2:])
    scaled = nn.Linear(2, 5)
    scaled.weight.data, scaled.bias.data = 3 * first.weight.data, 3 * first.bias.data - 1
    if way == "pre-hook":
        part.register_forward_pre_hook(lambda _, inputs: (3 * inputs[0] - 1,))
    else:
        vars(part)["forward"] = MethodType(scaled_forward, part)
    plane = gs.Slice(torch.zeros(2), torch.eye(2), half_width=2.0)
    found = gs.linear_regions(model, plane)
    expected = gs.linear_regions(nn.Sequential(scaled, *others), plane)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.areas, expected.areas, atol=1e-5, rtol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(inplace=True)).train()
    model[0].bias.requires_grad_(False)
    seen: list[object] = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        regions = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2)))
        regions.affine_maps()
        regions.centroids()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert model[1].inplace
    assert not seen
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not regions.areas.requires_grad
