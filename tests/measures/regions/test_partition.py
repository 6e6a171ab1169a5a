"""The partition against recorded results, an exact twin, and Euler's formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
    case, other = CASES["padded max pool"](), CASES["maximum and minimum"]()
    slices = [
        gs.Slice.random(torch.zeros(one.shape), 0.5, torch.Generator().manual_seed(2))
        for one in (case, other)
    ]
    with torch.device("meta"):  # whatever is made without a device has no values
        for one, plane in zip((case, other), slices, strict=True):
            regions = gs.linear_regions(one.model, plane)
            assert len(regions) == len(regions.activation_patterns()[regions.layers[0]])
            assert len(regions.decision_boundary()) >= 0
            assert len(regions.affine_maps().b) == len(regions.merged().labels)


def test_float32_and_float64_models_agree() -> None:
    model = mlp([3, 8, 6, 2])
    plane = gs.Slice.random(torch.zeros(3), 2.0, torch.Generator().manual_seed(0))
    single = gs.linear_regions(model, plane)
    assert next(model.parameters()).dtype == torch.float32
    double = gs.linear_regions(model.double(), plane)
    assert torch.equal(single.vertices, double.vertices)


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
