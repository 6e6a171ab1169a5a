"""Eigenvalues of Gram matrices where the eigensolver gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.measures.spectra import gram_eigen, gram_eigenvalues


def grams() -> Tensor:
    rows = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    return rows @ rows.mT  # of rank 4


def gives_up(*_: Any, **__: Any) -> Any:
    raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")


@pytest.mark.parametrize("fails", [False, True])
def test_eigenvalues_and_vectors(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    gram = grams()
    expected = np.linalg.eigvalsh(gram.double().numpy())
    if fails:
        monkeypatch.setattr(torch.linalg, "eigvalsh", gives_up)
        monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    values, vectors = gram_eigen(gram)
    for found in (gram_eigenvalues(gram), values):
        assert found.dtype == gram.dtype
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    torch.testing.assert_close(vectors * values.unsqueeze(-2) @ vectors.mT, gram, atol=2e-5, rtol=0)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(6).expand(5, 6, 6))


def test_parallel_rows_whose_lengths_span_the_range_of_float32() -> None:
    lengths = torch.tensor([1.0, 1e-25, -7.5e-8, 1.9e-17, 1.5e-9, 1.6e-26, 2.3e-23, -1.3e-9])
    values = gram_eigenvalues(torch.outer(lengths, lengths).expand(3, 8, 8))
    torch.testing.assert_close(values[:, -1], torch.ones(3))
    assert float(values[:, :-1].abs().max()) < 1e-7


def clouds() -> Tensor:
    return torch.randn(3, 20, 12, generator=torch.Generator().manual_seed(1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


MEASURED: dict[str, Callable[[], Any]] = {
    "jacobian_pc1": lambda: gs.jacobian_pc1(gs.MLP(12, [8], 4, seed=0), clouds()[0]).tolist(),
    "manifold_geometry": lambda: gs.manifold_geometry(
        clouds(), 0.0, 20, seeded()
    ).capacity.tolist(),
    "glue_geometry": lambda: float(gs.glue_geometry(clouds(), 20, seeded()).capacity),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_measure_goes_on_where_the_solver_gives_up(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = MEASURED[name]()
    monkeypatch.setattr(torch.linalg, "eigvalsh", gives_up)
    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    assert MEASURED[name]() == pytest.approx(expected, rel=1e-5)
