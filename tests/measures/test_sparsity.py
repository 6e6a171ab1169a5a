"""Gini coefficients and norms against definitions and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import grokscope as gs


def test_gini_is_half_the_relative_mean_difference_of_all_pairs() -> None:
    x = torch.randn(7, 3, dtype=torch.float64)
    values = x.abs().flatten()
    pairs = (values[:, None] - values).abs().mean()
    assert_close(gs.gini(x), pairs / (2 * values.mean()))
    assert_close(gs.gini(-5 * x.T), gs.gini(x))


def test_gini_at_its_ends() -> None:
    assert float(gs.gini(torch.ones(6))) == pytest.approx(0, abs=1e-6)
    assert float(gs.gini(torch.eye(1, 6))) == pytest.approx(5 / 6)
    assert float(gs.gini(torch.zeros(4))) == 0
    with pytest.raises(ValueError, match="empty"):
        gs.gini(torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        gs.gini(torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("modulus", [6, 7])
def test_fourier_components_by_their_sums(modulus: int) -> None:
    weight = torch.randn(modulus + 2, 5, dtype=torch.float64)
    lengths = []
    for wave, frequencies in ((math.cos, range(modulus // 2 + 1)), (math.sin, range(1, 4))):
        for f in frequencies:
            row = torch.tensor(
                [wave(2 * math.pi * f * r / modulus) for r in range(modulus)]
            ).double()
            if float(row.norm()) > 1e-6:  # the sine of the highest even frequency is 0
                lengths.append((row / row.norm() @ weight[:modulus]).norm())
    assert len(lengths) == modulus
    assert_close(gs.fourier_gini(weight, modulus), gs.gini(torch.stack(lengths)))


def test_fourier_gini_of_two_frequencies_and_of_noise() -> None:
    residues = torch.arange(53).double() * (2 * torch.pi / 53)
    few = torch.stack([(5 * residues).cos(), (9 * residues).sin()], dim=1)
    # two of 53 lengths, equal ones: a share of 1 - 2 / 53 has nothing
    assert float(gs.fourier_gini(few, 53)) == pytest.approx(51 / 53, rel=1e-6)
    # Lengths of 128 normal numbers have a relative deviation of sqrt(1 / 256), nearly normal, whose
    # Gini coefficient is that over sqrt(pi); of 53 of them it is known to sqrt(1 / 106).
    noise = float(gs.fourier_gini(torch.randn(53, 128), 53))
    assert noise == pytest.approx((1 / 256 / math.pi) ** 0.5, rel=4 * (1 / 106) ** 0.5)


def test_fourier_gini_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="weight needs a row for each of the 7 residues"):
        gs.fourier_gini(torch.zeros(3, 7), 7)
    with pytest.raises(ValueError, match="modulus must be at least 2"):
        gs.fourier_gini(torch.zeros(3, 7), 1)


def test_weight_norms_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    model[0].weight.requires_grad_(False)
    norms = gs.weight_norms(model)
    assert list(norms) == ["0.weight", "0.bias", "2.weight"]
    assert_close(norms["0.weight"], model[0].weight.square().sum().sqrt())
    assert not norms["2.weight"].requires_grad
