"""Jacobian measures with all rows at some examples only, against those with all rows."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.measures.sampled_geometry import sampled_geometry, sampled_points

N, D, K = 11, 5, 12
FULL = [0, 3, 7, 10]  # 11 examples in 4 even steps


class Skip(nn.Module):
    """A network that is no chain."""

    def __init__(self, num_outputs: int = K) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, D), nn.Linear(D, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.first(x).tanh())


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Skip().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_what_needs_all_rows_is_exact_at_some_examples_and_nan_at_the_others(model, x) -> None:
    found, exact = sampled_geometry(model, x, len(FULL)), gs.jacobian_geometry(model, x)
    torch.testing.assert_close(found.pc1[FULL], exact.pc1[FULL])
    torch.testing.assert_close(found.alignment[FULL], exact.alignment[FULL])
    torch.testing.assert_close(found.norm[FULL], exact.norm[FULL])
    others = [i for i in range(N) if i not in FULL]
    assert found.pc1[others].isnan().all()
    assert found.alignment[others].isnan().all()


def test_centroids_are_exact_at_every_example(model, x) -> None:
    found, exact = sampled_geometry(model, x, 4), gs.jacobian_geometry(model, x)
    torch.testing.assert_close(found.inputs, exact.inputs)
    torch.testing.assert_close(found.centroids, exact.centroids)
    torch.testing.assert_close(found.centroid_alignment, exact.centroid_alignment)
    torch.testing.assert_close(found.centroid_inner_product, exact.centroid_inner_product)


def test_the_estimated_norm_tends_to_the_norm(model, x) -> None:
    exact = gs.jacobian_norm(model, x)
    found = sampled_geometry(model, x, 1, projections=4000).norm
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)
    rough = sampled_geometry(model, x, 1, projections=1).norm
    assert (rough / exact - 1).abs().max() > 0.05


def test_it_is_the_same_in_every_call_and_in_chunks(model, x) -> None:
    once, again = sampled_geometry(model, x, 3), sampled_geometry(model, x, 3, chunk_size=2)
    torch.testing.assert_close(once.norm, again.norm)
    torch.testing.assert_close(once.pc1, again.pc1, equal_nan=True)


def test_all_examples_in_full_are_the_geometry(model, x) -> None:
    found, exact = sampled_geometry(model, x, N + 1), gs.jacobian_geometry(model, x)
    assert torch.equal(found.norm, exact.norm)
    assert torch.equal(found.pc1, exact.pc1)


@pytest.mark.parametrize(
    ("num_outputs", "n", "expected"), [(9, 64, 64), (10, 64, 16), (100, 64, 4), (10, 3, 3)]
)
def test_how_many_examples_are_measured_in_full(num_outputs: int, n: int, expected: int) -> None:
    assert sampled_points(Skip(num_outputs), torch.ones(n, D)) == expected


def test_a_chain_is_measured_in_full() -> None:
    assert sampled_points(gs.MLP(D, [7], 20, seed=0), torch.ones(64, D)) == 64


def test_noise_is_told_once_of_all_examples(x) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sampled_geometry(nn.Sequential(Skip(), nn.Softmax(1)).double(), x, 4)
    assert [str(w.message).split(" are")[0] for w in caught] == [
        f"the centroids of {N} of {N} examples"
    ]
    assert found.centroid_alignment.isnan().all()


@pytest.mark.parametrize("name", ["num_points", "projections"])
def test_counts_are_checked(model, x, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive integer: got 0"):
        sampled_geometry(model, x, **{"num_points": 4, "projections": 1, name: 0})


def test_a_monitor_says_at_how_many_points_rows_were_taken(x) -> None:
    torch.manual_seed(0)
    model, probe = Skip(), (torch.randn(64, D), torch.arange(64) % K)
    row = gs.Monitor(model, probe).measure(0)
    exact = gs.Monitor(model, probe, exact=True).measure(0)
    assert (row["jacobian_points"], row["jacobian_projections"]) == (13, 4)
    assert exact.keys() == row.keys() - {"jacobian_points", "jacobian_projections"}
    assert row["jacobian_pc1"] == pytest.approx(exact["jacobian_pc1"], rel=0.02)
    assert row["jacobian_pc1"] != exact["jacobian_pc1"]
    assert row["centroid_norm"] == pytest.approx(exact["centroid_norm"], rel=1e-5)


def test_a_monitor_of_a_chain_takes_all_rows() -> None:
    model = gs.MLP(D, [7], K, seed=0)
    probe = (torch.randn(64, D), torch.arange(64) % K)
    assert gs.Monitor(model, probe).measure(0) == gs.Monitor(model, probe, exact=True).measure(0)
