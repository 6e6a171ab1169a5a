"""The analysis of linear regions, against activation patterns counted on a grid and by autograd."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

import grokscope as gs
from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.experiments.analyses.migration import migration_metrics, places_along
from grokscope.experiments.analyses.region_pictures import picture, setting
from grokscope.experiments.analyses.regions import (
    Triple,
    _shown,
    rank_correlation,
    region_metrics,
    sunflower,
    training_triples,
)

SPEC = """
name: small
title: A small experiment
data: {name: digits, train_size: 100}
model: {widths: [9, 7]}
training:
  max_steps: 60
  lr: 1e-2
  evaluate: {per_decade: 6}
  keep_checkpoints: [0, 5, 20, 40]
milestones:
  memorized: {metric: train_accuracy, target: 0.3}
  generalized: {metric: test_accuracy, target: 0.5}
  never: {metric: test_accuracy, target: 1.0}
arms: {baseline: {}, grokalign: {methods: [{name: grokalign, weight: 1e-2}]}}
analysis: regions
analysis_options: {triples: 3, pictured: [0, 1], radius: 0.5}
panels:
  - {kind: regions, title: A slice, slice: 1}
"""


def network() -> torch.nn.Module:
    return gs.MLP(6, [11, 8], 4, seed=2).double()


@pytest.fixture
def triple() -> Triple:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return Triple(x, torch.tensor([2, 0, 3]), gs.Slice.through(*x))


def patterns(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Which hidden units are on, as one number for each point."""
    first = model.linear1(x).relu()
    on = torch.cat([first > 0, model.linear2(first) > 0], dim=1)
    return (on * 2 ** torch.arange(on.shape[1])).sum(1)


def test_figures_agree_with_a_fine_grid_and_with_autograd(triple: Triple) -> None:
    model, radius = network(), 0.9
    found = region_metrics(model, [triple], radius)
    side = (torch.arange(801, dtype=torch.float64) / 400 - 1) * radius
    grid = torch.cartesian_prod(side, side)
    in_disc = grid.norm(dim=1) <= radius
    areas, counts, norms, spreads, labels, centroids = [], [], [], [], [], []
    for point, label in zip(triple.x, triple.y, strict=True):
        places = point + grid @ triple.slice.basis
        seen = patterns(model, places)
        areas.append(float((seen == patterns(model, point[None])).double().mean() * 4 * radius**2))
        counts.append(len(seen[in_disc].unique()))
        disc = point + radius * sunflower(64) @ triple.slice.basis
        each = [torch.autograd.functional.jacobian(model, z[None])[0, :, 0] for z in disc]
        size = torch.stack([jacobian.norm() for jacobian in each])
        norms.append(float(size.mean()))
        spreads.append(float(size.std()))
        here = torch.autograd.functional.jacobian(model, point[None])[0, :, 0]
        labels.append(float(torch.cosine_similarity(here[label], point, dim=0)))
        centroids.append(float(torch.cosine_similarity(here.sum(0), point, dim=0)))
    assert found["cell_area"] == pytest.approx(sorted(areas)[1], rel=0.02)
    # A grid misses slivers but never finds more.
    assert sum(counts) <= 3 * found["local_complexity"] <= 1.15 * sum(counts)
    mean = {"norm": norms, "norm_spread": spreads, "label_alignment": labels}
    for name, values in {**mean, "centroid_alignment": centroids}.items():
        assert found[name] == pytest.approx(sum(values) / 3, rel=1e-10), name


def test_an_affine_network_is_one_flat_region(triple: Triple) -> None:
    model = torch.nn.Linear(6, 4).double()
    found = region_metrics(model, [triple], 0.5)
    assert found["local_complexity"] == 1
    assert found["cell_area"] == pytest.approx(1.0)
    assert found["norm"] == pytest.approx(float(model.weight.detach().norm()))
    assert found["norm_spread"] == pytest.approx(0, abs=1e-12)
    assert found["operator_change"] == pytest.approx(0, abs=1e-12)
    assert found["density_data"] == 0
    # Nothing splits it, and no boundaries anywhere have no ratio.
    assert not {"region_distance", "migration"} & set(found)


def test_boundaries_near_the_data_and_near_the_decision_equal_many_short_steps(
    triple: Triple,
) -> None:
    model, radius = network(), 0.4
    found = migration_metrics(model, triple.slice, triple.x, radius)
    regions = gs.linear_regions(model, triple.slice)
    at = triple.slice.coordinates(triple.x)
    start, end = regions.vertices[regions.edges[regions.edge_layer >= 0]].unbind(1)
    steps = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    along = start[:, None] + steps[:, None] * (end - start)[:, None]
    piece = (end - start).norm(dim=1)[:, None].expand_as(along[..., 0]) / 500

    def density(center: Tensor) -> float:
        near = (along - center).norm(dim=2) <= radius
        return float(piece[near].sum()) / (math.pi * radius**2)

    expected = [density(point) for point in at]
    assert found["density_data"].tolist() == pytest.approx(expected, rel=0.02)
    nearest = [float((along - point).norm(dim=2).min()) for point in at]
    assert found["region_distance"].tolist() == pytest.approx(nearest, abs=2e-3)

    # The decision boundary by a grid: where the class of a square's corners changes.
    reach = float(triple.slice.polygon.max())
    side = torch.linspace(-reach, reach, 601, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1)
    inputs = triple.x[0] + (grid - at[0]).flatten(0, 1) @ triple.slice.basis
    label = model(inputs).argmax(1).reshape(601, 601)
    changes = (label[1:, 1:] != label[:-1, :-1]) | (label[1:, :-1] != label[:-1, 1:])
    edge = grid[:-1, :-1][changes] + reach / 600
    apart = [float((edge - point).norm(dim=1).min()) for point in at]
    assert found["decision_distance"].tolist() == pytest.approx(apart, abs=4 * reach / 600)

    inner = edge[edge.abs().amax(1) < reach - radius]
    sample = inner[:: max(1, len(inner) // 60)]
    close_to = sum(map(density, sample)) / len(sample)
    assert float(found["density_decision"].mean()) == pytest.approx(close_to, rel=0.06)
    ratio = found["density_decision"].mean() / found["density_data"].mean()
    assert float(found["migration"]) == pytest.approx(float(ratio))
    metrics = region_metrics(model, [triple], radius)
    assert metrics["region_distance"] == pytest.approx(sorted(nearest)[1], abs=2e-3)
    assert metrics["migration"] == pytest.approx(float(ratio))


def test_places_along_a_boundary_are_even_in_input_space() -> None:
    plane = gs.Slice(torch.zeros(2), torch.tensor([[2.0, 0.0], [1.0, 0.5]]), 1.0)
    segments = torch.tensor([[[-1.0, 0], [1, 0]], [[0, -1], [0, 1]]], dtype=torch.float64)
    places = plane.points(places_along(segments, plane.metric, 300))
    first = places[: int((places[:, 1] == 0).sum())]
    assert len(first) / 300 == pytest.approx(4 / (4 + 5**0.5), abs=0.01)
    gaps = (first[1:] - first[:-1]).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, (4 + 5**0.5) / 300))
    assert places_along(segments[:0], plane.metric, 5).shape == (0, 2)


def test_triples_are_of_three_classes_and_share_no_point() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 1, 0, 1, 2, 2, 0, 0, 1])
    found = training_triples(x, y, 2)
    assert [triple.y.tolist() for triple in found] == [[1, 0, 2], [2, 0, 1]]
    assert torch.equal(torch.cat([t.x for t in found]), x[[0, 2, 4, 5, 6, 8]])
    with pytest.raises(ValueError, match="triples=3, but the training data have 2"):
        training_triples(x, y, 3)


def test_sunflower_points_are_uniform_on_the_disc() -> None:
    points = sunflower(2000)
    radius = points.norm(dim=1)
    assert float(radius.max()) < 1
    assert float((radius < 0.5).double().mean()) == pytest.approx(0.25, abs=0.002)
    assert points.mean(0).abs().max() < 0.002


def test_rank_correlation_is_spearmans() -> None:
    pairs = torch.randn(17, 2, generator=torch.Generator().manual_seed(5))
    expected = stats.spearmanr(pairs.numpy()).statistic
    assert rank_correlation(pairs) == pytest.approx(expected, rel=1e-12)


def test_a_picture_has_the_norms_of_the_regions_it_shows(triple: Triple) -> None:
    model = network()
    drawn = picture(model, triple.x, triple.y, triple.slice, 0.4, (1, 2, 3))
    regions = gs.linear_regions(model, triple.slice)
    assert int(drawn["count"]) == len(regions)
    low, high = triple.slice.polygon.amin(0), triple.slice.polygon.amax(0)
    side = drawn["norms"].shape[0]
    norms = regions.operator_norms()
    for row, column in ((0, 0), (5, 100), (90, 17), (side - 1, side - 1)):
        share = torch.tensor([(column + 0.5) / side, 1 - (row + 0.5) / side], dtype=torch.float64)
        cell = regions.locate((low + share * (high - low))[None])
        assert float(drawn["norms"][row, column]) == pytest.approx(float(norms[cell]), rel=1e-6)
    assert drawn["rows"].shape == drawn["centroids"].shape == (3, 1, 2, 3)
    own = torch.autograd.functional.jacobian(model, triple.x[1:2])[0, :, 0]
    assert torch.allclose(drawn["rows"][1].flatten(), own[0].float())
    near = gs.linear_regions(model, gs.Slice(triple.x[2], triple.slice.basis, half_width=0.4))
    assert int((drawn["near_point"] == 2).sum()) == len(near)
    assert drawn["near_corners"].abs().max() <= 0.4 * (1 + 1e-6)
    assert drawn["near_start"][-1] == len(drawn["near_corners"])
    fixed = setting(triple.x, triple.y, triple.slice, 0.4, None)
    assert torch.allclose(triple.slice.points(fixed["coordinates"]), triple.x)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> gs.Run:
    folder = tmp_path_factory.mktemp("regions")
    (folder / "small.yaml").write_text(SPEC)
    experiment = load_experiment(str(folder / "small.yaml"), num_seeds=2)
    return run_experiment(experiment, folder / "run", device="cpu")


def test_the_analysis_reports_every_kept_step_and_milestone(run: gs.Run) -> None:
    results = run.results
    trajectory = results["trajectory"]["grokalign"]
    assert [row["step"] for row in trajectory] == [0, 5, 20, 40, 60]
    history = run.history("grokalign", 0)
    row = next(row for row in history.rows if row["step"] == 20)
    assert trajectory[2]["test_accuracy"] == row["test_accuracy"]
    reached = results["milestones"]["grokalign"]
    assert set(reached) == {"memorized", "generalized", "last"}
    first = history.first_step("train_accuracy", 0.3)
    assert reached["memorized"]["step"] == min(s for s in (0, 5, 20, 40, 60) if s >= first)
    ratios = results["ratio"]["grokalign"]["norm"]
    assert len(ratios) == 2
    before, after = reached["memorized"], reached["generalized"]
    assert ratios[0] == pytest.approx(after["norm"] / before["norm"])
    rise = after["label_alignment"] - before["label_alignment"]
    assert results["difference"]["grokalign"]["label_alignment"][0] == pytest.approx(rise)
    last = reached["last"]["cell_area"] / before["cell_area"]
    # No boundary near a point has no ratio to those near the decision boundary.
    kinds = results["last_ratio"]["baseline"].keys() ^ results["ratio"]["grokalign"].keys()
    assert kinds <= {"migration"}
    assert results["last_ratio"]["grokalign"]["cell_area"][0] == pytest.approx(last)
    correlations = results["rank_correlation"]["baseline"]["norm"]
    assert correlations
    assert all(-1 <= value <= 1 for value in correlations)


def test_the_analysis_stores_the_slices_that_are_pictured(run: gs.Run) -> None:
    names = run.array_names("baseline", 0)
    for number in (0, 1):
        assert f"slice-{number}" in names
        steps = [name for name in names if name.startswith(f"slice-{number}-step-")]
        assert len(steps) == 5
    assert "slice-2" not in names
    fixed = run.arrays("baseline", 0, "slice-1")
    assert fixed["x"].shape == (3, 1, 8, 8)
    assert len(set(fixed["y"].tolist())) == 3


@pytest.mark.parametrize("number", [-1, 3])
def test_a_slice_that_is_not_there_cannot_be_pictured(number: int, triple: Triple) -> None:
    assert list(_shown([triple] * 3, [2, 0])) == ["slice-2", "slice-0"]
    with pytest.raises(ValueError, match=f"pictured must hold numbers from 0 to 2: got {number}"):
        _shown([triple] * 3, [0, number])


def test_an_option_that_the_analysis_does_not_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC.replace("triples: 3", "triple: 3"))
    with pytest.raises(SpecError, match="'triple'; did you mean 'triples'"):
        load_experiment(str(path))
