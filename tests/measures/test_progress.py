"""Fourier spectra and progress measures against a hand-built solution in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import grokscope as gs

P, KEYS = 11, (2, 5)


def pairs() -> tuple[Tensor, Tensor]:
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).unbind(1)
    return a, b


def algorithm(c: Tensor, keys: tuple[int, ...] = KEYS, height: float = 4.0) -> Tensor:
    """The logits of Nanda et al.'s solution, sum_k cos(w_k (c - c')): largest at c' = c."""
    distance = (c[:, None] - torch.arange(P)).double()
    return height * sum(torch.cos(2 * math.pi * k * distance / P) for k in keys)


def test_spectrum_is_that_of_the_discrete_fourier_transform() -> None:
    for modulus in (6, 7):
        weight = torch.randn(modulus + 1, 5).double()
        transform = torch.fft.fft(weight[:modulus], dim=0).norm(dim=1) / modulus**0.5
        both = torch.cat([torch.zeros(1), transform[1:].flip(0)])[: modulus // 2 + 1]
        if modulus == 6:
            both[3] = 0  # the highest frequency is its own mirror
        found = gs.fourier_spectrum(weight, modulus)
        assert_close(found, (transform[: modulus // 2 + 1] ** 2 + both**2).sqrt())
        assert_close(found.square().sum(), weight[:modulus].square().sum())


def test_key_frequencies_are_those_of_the_neuron_logit_map() -> None:
    residues = torch.arange(P).double()
    waves = [torch.cos(2 * math.pi * k * residues / P + phase) for k in KEYS for phase in (0, 1.0)]
    weight = torch.stack([*waves, 9 * torch.ones(P).double()], 1) + 0.01 * torch.randn(P, 5)
    assert gs.key_frequencies(weight, P, 2) == list(KEYS)
    with pytest.raises(ValueError, match="num must be from 1 to 5 for modulus 11: got 6"):
        gs.key_frequencies(weight, P, 6)


def test_the_algorithm_alone() -> None:
    """Restricted is the loss itself, excluded that of a uniform guess, the share is 1."""
    a, b = pairs()
    for c in ((a + b) % P, (a - b) % P):
        z = algorithm(c)
        found = gs.progress_measures(z, c, a < 4, KEYS)
        assert found.restricted_loss == pytest.approx(float(cross_entropy(z, c)))
        assert found.excluded_loss == pytest.approx(math.log(P))
        assert found.logit_share == pytest.approx(1)


def test_key_frequencies_beside_another_one_and_a_constant() -> None:
    """Waves of other frequencies are orthogonal, so each part is known."""
    a, b = pairs()
    c, train = (a + b) % P, (a * b) % 3 == 0
    bias = torch.randn(P).double()
    other = algorithm(c, (3,), height=2.0)
    z = bias + algorithm(c) + other + torch.randn(P * P, 1).double()  # the same for all outputs
    found = gs.progress_measures(z, c, train, KEYS)
    rest = (bias + other)[train]
    assert found.restricted_loss == pytest.approx(float(cross_entropy(bias + algorithm(c), c)))
    assert found.excluded_loss == pytest.approx(float(cross_entropy(rest, c[train])))
    # |height cos(w (c - c'))|^2 is height^2 p / 2 for each pair and frequency
    assert found.logit_share == pytest.approx(2 * 4**2 / (2 * 4**2 + 2**2))


def test_memory_shows_in_the_excluded_loss_only() -> None:
    """The answers to training pairs alone: spread over all waves and over what is none."""
    a, b = pairs()
    c, train = (a + b) % P, a < 4  # four pairs of each result
    z = torch.zeros(P * P, P).double()
    z[train, c[train]] = 20.0
    found = gs.progress_measures(z, c, train, KEYS)
    assert found.excluded_loss < 0.01
    # the share of the pairs that are for training, times that of the p - 1 waves that are key
    assert found.logit_share == pytest.approx(4 / P * 2 * len(KEYS) / (P - 1))


def test_results_that_are_not_equally_frequent() -> None:
    """Of a product zero is more frequent; the projection is the least-squares fit all the same."""
    a, b = pairs()
    c = (a * b) % P
    z = torch.randn(P * P, P).double()
    angle = 2 * math.pi * c[:, None].double() * torch.tensor(KEYS) / P
    design = torch.cat([torch.ones(P * P, 1).double(), angle.cos(), angle.sin()], 1)
    fitted = design @ torch.linalg.lstsq(design, z).solution
    found = gs.progress_measures(z, c, a == a, KEYS)
    assert found.restricted_loss == pytest.approx(float(cross_entropy(fitted, c)))
    left = z - fitted + z.mean(0)
    assert found.excluded_loss == pytest.approx(float(cross_entropy(left, c)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frequencies": [2, 2]}, r"each once: got \[2, 2\]"),
        ({"frequencies": []}, r"one or more, each once: got \[\]"),
        ({"frequencies": [6]}, "from 1 to 5"),
        ({"train": torch.zeros(P * P, dtype=torch.bool)}, "train marks no pair"),
        ({"results": torch.arange(P * P)}, "residues from 0 to 10, .* got 0 to 120"),
    ],
)
def test_mistakes_are_named(changed: dict, message: str) -> None:
    a, b = pairs()
    c = (a + b) % P
    arguments = {"logits": algorithm(c), "results": c, "train": a < 4, "frequencies": KEYS}
    with pytest.raises(ValueError, match=message):
        gs.progress_measures(**{**arguments, **changed})
