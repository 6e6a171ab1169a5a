"""The kernel's distances over training against kernels computed by definition."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.training import ntk_distance
from tests.reference.ntk import full_kernel

X = torch.randn(17, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(17) % 3
STEPS = [0, 1, 4, 9]


def network() -> nn.Module:
    return gs.MLP(6, [9, 5], 3, seed=2).double()


def twin_distance(one: Tensor, other: Tensor) -> float:
    return 1 - float((one * other).sum() / (one.norm() * other.norm()))


def watched(reduce: str, num_points: int) -> tuple[gs.Monitor, list[Tensor]]:
    """A monitor after some steps of gradient descent, and the kernels that it should have seen."""
    model = network()
    measure = gs.NTKDistance(num_points, reduce=reduce)
    monitor = gs.Monitor(model, (X, Y), [measure], schedule=STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    kernels = []
    for step in range(10):
        if monitor.step(step) is not None:
            full = full_kernel(model, X[:num_points], X[:num_points])
            diagonal = full.diagonal(dim1=2, dim2=3)
            kernels.append(
                {"full": full, "trace": diagonal.mean(2), "sum": full.sum((2, 3))}[reduce]
            )
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    monitor.finish()
    return monitor, kernels


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
@pytest.mark.parametrize("num_points", [7, 17])
def test_figures_and_matrix_are_those_of_the_definition(reduce: str, num_points: int) -> None:
    monitor, kernels = watched(reduce, num_points)
    assert monitor.history.steps.tolist() == STEPS
    init, previous = (monitor.history[f"ntk_distance_{name}"] for name in ("init", "previous"))
    expected = [[twin_distance(a, b) for b in kernels] for a in kernels]
    assert expected[0][3] > 1e-3
    assert init.tolist() == pytest.approx(expected[0], abs=1e-12)
    assert math.isnan(previous[0])
    assert previous[1:].tolist() == pytest.approx([expected[i][i + 1] for i in range(3)], abs=1e-12)
    stored = monitor.archive.arrays("ntk_distance")
    assert stored["steps"].tolist() == STEPS
    assert torch.allclose(stored["matrix"], torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    kept = monitor.archive.arrays("ntk-00000004")["kernel"]
    assert torch.allclose(kept, kernels[2], rtol=1e-9)


def test_more_points_than_the_probe_has_are_all_of_them() -> None:
    monitor, kernels = watched("full", 99)
    assert monitor.archive.arrays("ntk-00000000")["kernel"].shape == (17, 17, 3, 3)
    assert len(kernels) == 4


def test_a_run_keeps_each_kernel_once(tmp_path: Path) -> None:
    model = network()
    monitor = gs.Monitor(model, (X, Y), ["ntk_distance"], schedule=[2, 5], pictures=1)
    gs.fit(model, (X, Y, X, Y), monitor=monitor, max_steps=7, device="cpu", out=tmp_path / "run")
    names = gs.Run(tmp_path / "run").array_names("run", 0)
    steps = ["00000000", "00000002", "00000005", "00000007"]
    assert [name for name in names if "ntk" in name] == [
        *(f"ntk-{step}" for step in steps),
        "ntk_distance",
    ]
    kernel = 17 * 17 * 3 * 3 * 8
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors")}
    large = [name for name, size in sizes.items() if size >= kernel]
    assert len(large) == 4, "no kernel is anywhere else, in a checkpoint or a picture"


@pytest.mark.parametrize("scale", [0.0, 1e20, math.nan], ids=["dead", "overflow", "nan"])
def test_a_network_without_a_kernel_has_no_distance_and_stops_nothing(scale: float) -> None:
    model = gs.MLP(6, [9], None, bias=False, seed=0)
    monitor = gs.Monitor(
        model,
        (X.float(), (Y > 0).float()),
        ["ntk_distance", "point_ntk"],
        schedule=[1, 2],
        loss="mse",
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    monitor.step(0)
    for parameter in model.parameters():
        parameter.data *= scale
    monitor.step(1)
    for parameter, value in zip(model.parameters(), before, strict=True):
        parameter.data.copy_(2 * value)
    monitor.step(2)
    monitor.finish()
    init = monitor.history["ntk_distance_init"]
    assert math.isnan(init[1])
    assert init[[0, 2]].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert monitor.archive.arrays("ntk_distance")["steps"].tolist() == [0, 2]
    assert monitor.archive.arrays("ntk_distance")["matrix"].shape == (2, 2)


def test_a_step_measured_again_takes_the_place_of_itself() -> None:
    model = network()
    monitor = gs.Monitor(model, (X, Y), ["ntk_distance"])
    monitor.measure(0)
    for parameter in model.parameters():
        parameter.data += 0.3
    first = monitor.measure(10)
    assert monitor.measure(10) == first
    assert first["ntk_distance_init"] == first["ntk_distance_previous"] > 0


def test_a_kernel_that_is_gone_is_named(tmp_path: Path) -> None:
    model = network()
    monitor = gs.Monitor(model, (X, Y), ["ntk_distance"])
    monitor.measure(0)
    monitor.keep_in(gs.Monitor(model, (X, Y)).archive)
    with pytest.raises(FileNotFoundError, match=r"kernel of step 0 \(ntk-00000000\) is gone"):
        monitor.measure(1)


def test_the_first_point_against_the_others() -> None:
    model = network()
    monitor = gs.Monitor(
        model,
        (X, Y),
        ["point_ntk", "point_inner_product", "point_alignment", "point_centroid_norm"],
        chunk_size=4,
    )
    row = monitor.step(0)
    kernel = full_kernel(model, X[:1], X[1:]).diagonal(dim1=2, dim2=3).mean(2)
    assert row["point_ntk"] == pytest.approx(float(kernel.mean()))
    assert row["point_inner_product"] == pytest.approx(
        float(gs.centroid_inner_product(model, X)[0])
    )
    assert row["point_alignment"] == pytest.approx(float(gs.centroid_alignment(model, X)[0]))
    assert row["point_centroid_norm"] == pytest.approx(float(gs.centroids(model, X)[0].norm()))
    assert not any(name.endswith("_max") for name in row)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_points must be a positive integer: got 0"):
        gs.NTKDistance(num_points=0)
    monitor = gs.Monitor(network(), (X[:1], Y[:1]), ["point_ntk"])
    with pytest.raises(ValueError, match="point_ntk needs a probe of two points or more"):
        monitor.measure(0)
    with pytest.raises(ValueError, match="did you mean 'ntk_distance'"):
        gs.Monitor(network(), (X, Y), ["ntk_distanse"])


def test_a_large_kernel_is_kept_at_half_the_size_and_its_distances_to_a_millionth() -> None:
    def half(kernel: Tensor) -> Tensor:
        archive = gs.training.archive.MemoryArchive()
        archive.save_arrays("kernel", {"kernel": ntk_distance._compact(kernel)})
        return archive.arrays("kernel")["kernel"]

    generator = torch.Generator().manual_seed(3)
    one = torch.randn(1024, 1024, generator=generator) * 1e7
    other = one + 0.3e7 * torch.randn(1024, 1024, generator=generator)
    assert half(one).dtype == torch.float16
    exact = twin_distance(one.double(), other.double())
    assert exact > 0.01
    assert twin_distance(half(one).double(), half(other).double()) == pytest.approx(exact, abs=1e-6)
    for kept in (one[:9], torch.full_like(one, torch.nan), torch.zeros_like(one)):
        assert torch.equal(half(kept).nan_to_num(7), kept.nan_to_num(7))


def test_kernels_may_go_once_all_distances_are_known() -> None:
    measure = gs.NTKDistance(7, keep_kernels=False)
    monitor = gs.Monitor(network(), (X, Y), [measure], schedule=1)
    for step in range(3):
        monitor.step(step)
    monitor.finish()
    assert monitor.archive.arrays("ntk-00000002") is None
    matrix = monitor.archive.arrays("ntk_distance")["matrix"]
    monitor.finish()  # a second time, as after a stop between the two
    assert torch.equal(monitor.archive.arrays("ntk_distance")["matrix"], matrix)
