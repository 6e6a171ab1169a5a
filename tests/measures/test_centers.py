from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.measures import center_search as search
from grokscope.measures import centers as module
from tests.reference import capacity as twin


def _centers(seed: int, count: int = 9, num_features: int = 30, shared: int = 2) -> Tensor:
    """Centers whose first few directions are shared."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal(count, num_features) + 3 * normal(count, shared) @ normal(shared, num_features)


def _recorded(folder: Path, name: str) -> tuple[Tensor, list[dict[str, np.ndarray]]]:
    """The centers, and for each of the authors' seeds what its run ended with."""
    data = np.load(folder / "centers" / f"{name}.npz")
    keys = ("V", "residual", "stability", "F")
    runs = [{key: data[f"{key}{seed}"] for key in keys} for seed in range(4)]
    return torch.from_numpy(data["centers"]), runs


@pytest.mark.parametrize("name", ["shared3", "mnist_relu60", "emnist_relu128"])
def test_definitions_are_those_of_the_recorded_runs(shared_reference: Path, name: str) -> None:
    centers, runs = _recorded(shared_reference, name)
    centered = centers - centers.mean(0)
    for run in runs:
        frame = torch.from_numpy(run["V"])
        left = centered - centered @ frame @ frame.T
        cost = twin.center_cost(centered, frame)
        stability = twin.center_stability(centered, frame)
        assert float(cost) == pytest.approx(float(run["F"]), rel=1e-12)
        assert float(stability) == pytest.approx(float(run["stability"]), rel=1e-10)
        rank = frame.shape[1]
        expected = float(run["residual"][rank - 1])
        assert float(module.mean_correlation(left)) == pytest.approx(expected, rel=1e-10)
        assert rank == int(run["residual"].argmin()) + 1  # how the authors choose K


def test_cost_and_gradient_are_those_of_the_definition() -> None:
    coordinates = torch.randn(6, 5).double()
    frame = torch.randn(2, 5, 3).double()
    cost, slope, space, kept = search.evaluate(coordinates.numpy(), frame.numpy())
    for i in range(2):
        z = frame[i].clone().requires_grad_()
        inverse = torch.linalg.inv(torch.linalg.cholesky(z.T @ z))
        expected = twin.center_cost(coordinates, z @ inverse.T)
        expected.backward()
        assert cost[i] == pytest.approx(float(expected.detach()), rel=1e-12)
        assert z.grad is not None
        np.testing.assert_allclose(slope[i], z.grad.numpy(), atol=1e-10)
        np.testing.assert_allclose(space[i].T @ space[i], np.eye(3), atol=1e-12)
        stability = twin.center_stability(coordinates, torch.from_numpy(space[i]))
        assert kept[i] == pytest.approx(float(stability))


def test_newton_model_is_the_second_derivative_of_the_definition() -> None:
    coordinates = torch.randn(7, 6).double()
    frame = torch.linalg.qr(torch.randn(6, 2).double()).Q
    basis, gradient, hessian = search.newton_model(coordinates.numpy(), frame.numpy())

    def along(step: Tensor) -> Tensor:
        z = frame + torch.from_numpy(basis) @ step.reshape(4, 2)
        inverse = torch.linalg.inv(torch.linalg.cholesky(z.T @ z))
        return twin.center_cost(coordinates, z @ inverse.T)

    zero = torch.zeros(8).double()
    slope = torch.autograd.functional.jacobian(along, zero)
    curvature = torch.autograd.functional.hessian(along, zero)
    np.testing.assert_allclose(gradient, slope.numpy(), atol=1e-10)
    np.testing.assert_allclose(hessian, curvature.numpy(), atol=1e-9)


def test_first_steps_are_the_published_conjugate_gradients() -> None:
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((8, 7))
    starts = np.linalg.qr(generator.standard_normal((5, 7, 2)))[0]
    found = search.leave(centers, starts, 6)
    for i in range(5):
        expected = twin.conjugate_gradients(
            torch.from_numpy(centers), torch.from_numpy(starts[i]), 6
        )
        np.testing.assert_allclose(found[i], expected.numpy(), atol=1e-8)


def test_search_ends_at_minima() -> None:
    centers = _centers(0)
    coordinates = torch.linalg.qr((centers - centers.mean(0)).T).R.T.numpy()[:, :-1]
    generator = np.random.default_rng(0)
    starts = np.linalg.qr(generator.standard_normal((30, coordinates.shape[1], 2)))[0]
    found = search.minima(coordinates, starts)
    assert (np.diff(found.stability) <= 0).all()
    for i in range(len(found.cost)):
        end = search.polish(coordinates, found.frame[i], 1e-10, 40)
        assert end.slope[0] < 1e-9
        assert end.cost[0] == pytest.approx(found.cost[i], rel=1e-3)
        nudged = end.frame + 1e-3 * generator.standard_normal((20, *end.frame.shape[1:]))
        assert (search.evaluate(coordinates, nudged)[0] > end.cost).all()


@pytest.mark.parametrize("name", ["gauss15", "shared3", "mnist_pix30", "mnist_relu60"])
def test_as_stable_as_the_best_of_the_authors_seeds(shared_reference: Path, name: str) -> None:
    centers, runs = _recorded(shared_reference, name)
    found = gs.center_structure(centers)
    best = max(runs, key=lambda run: float(run["stability"]))
    assert found.num_components == best["V"].shape[1]
    centered = centers - centers.mean(0)
    stability = float(twin.center_stability(centered, found.subspace))
    assert stability > float(best["stability"]) * (1 - 1e-4)
    assert float(found.candidates[found.num_components - 1].stability[0]) == pytest.approx(
        stability
    )
    frame = torch.from_numpy(best["V"])
    torch.testing.assert_close(
        found.subspace @ found.subspace.T, frame @ frame.T, atol=1e-5, rtol=0
    )
    up_to = found.num_components
    np.testing.assert_allclose(
        found.residual_correlations[1 : up_to + 1].numpy(), best["residual"][:up_to], rtol=1e-4
    )


def test_more_stable_than_where_the_authors_long_valleys_end(shared_reference: Path) -> None:
    centers, runs = _recorded(shared_reference, "emnist_relu128")
    found = gs.center_structure(centers)
    assert found.num_components in {run["V"].shape[1] for run in runs}
    centered = centers - centers.mean(0)
    stability = float(twin.center_stability(centered, found.subspace))
    basis = torch.linalg.svd(centered, full_matrices=False).Vh[:-1].T
    coordinates = (centered @ basis).numpy()
    for run in runs:
        # Their thousand steps end while F still falls, and stability with it.
        frame = basis.numpy().T @ run["V"]
        end = search.polish(coordinates, frame, 1e-9, 60)
        assert end.cost[0] < float(run["F"])
        assert end.slope[0] < 1e-6
        assert stability > end.stability[0]


def test_a_more_stable_minimum_that_cannot_be_the_answer_is_passed_over(
    shared_reference: Path,
) -> None:
    data = np.load(shared_reference / "manifold" / "mnist_mlp200.npz")
    centers = torch.stack([torch.from_numpy(data[f"X{i}"]).double().mean(1) for i in range(10)])
    found = gs.center_structure(centers)
    second = found.candidates[1]
    assert float(second.stability[0]) < float(second.stability[1:].max())
    passed = second.stability > second.stability[0]
    before = found.residual_correlations[1]
    assert bool((second.residual_correlation[passed] > before).all())
    assert bool(second.residual_correlation[0] < before)
    assert found.num_components == int(data["K"])


def test_ambiguity_is_told(shared_reference: Path) -> None:
    centers, runs = _recorded(shared_reference, "mnist_relu60")
    found = gs.center_structure(centers)
    second = found.candidates[1]
    other = int((second.stability - float(runs[2]["stability"])).abs().argmin())
    assert other > 0
    assert float(second.stability[other]) == pytest.approx(float(runs[2]["stability"]), rel=1e-3)
    assert float(second.residual_correlation[other]) == pytest.approx(
        float(runs[2]["residual"][1]), rel=1e-3
    )
    cosine = torch.linalg.svdvals(found.subspace.T @ torch.from_numpy(runs[2]["V"]))[-1]
    assert float(second.distance[other]) == pytest.approx(float((1 - cosine**2).sqrt()), rel=1e-2)
    assert float(second.distance[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["mnist_relu60", "shared3", "emnist_relu128"])
def test_same_to_the_end_for_any_rotation_order_and_seed(shared_reference: Path, name: str) -> None:
    centers, _ = _recorded(shared_reference, name)
    count, num_features = centers.shape
    rotation = torch.linalg.qr(torch.randn(num_features, num_features).double()).Q
    expected = rotation.T @ gs.center_structure(centers).subspace
    torch.manual_seed(123)
    found = gs.center_structure(centers[torch.randperm(count)] @ rotation).subspace
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-8, rtol=0)


def test_removes_what_the_centers_share() -> None:
    structure = gs.center_structure(_centers(1, count=14, num_features=200))
    assert structure.num_components == 2
    assert float(structure.residual_correlations[2]) < 0.5 * float(structure.correlation)
    overlap = structure.subspace.T @ structure.subspace
    torch.testing.assert_close(overlap, torch.eye(2).double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_same_whatever_the_rotation_the_order_and_the_scale(seed: int) -> None:
    centers = _centers(seed)
    rotation = torch.linalg.qr(torch.randn(30, 30).double()).Q
    order = torch.randperm(9)
    expected = gs.center_structure(centers)
    found = gs.center_structure(7 * centers[order] @ rotation + torch.randn(30))
    turned = rotation.T @ expected.subspace
    torch.testing.assert_close(
        found.subspace @ found.subspace.T, turned @ turned.T, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.correlation, expected.correlation)


def test_search_stops_after_three_rises_past_the_fourth_rank() -> None:
    centers = torch.randn((12, 200))
    residuals = gs.center_structure(centers).residual_correlations
    assert bool((residuals.diff() > 0).all())
    assert len(residuals) == 1 + 5


def test_nothing_is_removed_where_allowed_and_best() -> None:
    centers = torch.eye(6).double() + 0.01 * torch.randn(6, 6).double()
    assert gs.center_structure(centers).num_components >= 1
    assert gs.center_structure(centers, min_components=0).num_components == 0


def test_two_centers_leave_nothing_to_remove() -> None:
    structure = gs.center_structure(torch.randn(2, 5))
    assert structure.subspace.shape == (5, 0)
    assert float(structure.correlation) == pytest.approx(1.0)


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    gs.center_structure(_centers(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_center_at_the_mean_of_all_is_named() -> None:
    centers = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)])
    with pytest.raises(ValueError, match=r"centers\[6\].* is the mean of all centers"):
        gs.center_structure(centers)
    with pytest.raises(ValueError, match=r"centers\[6\].*pass correlations='keep'"):
        gs.manifold_geometry([center + torch.randn(5, 3) * 1e-12 for center in centers.double()])
