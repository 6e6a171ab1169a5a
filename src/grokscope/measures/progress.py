"""Progress measures of modular arithmetic: how much of a network is the algorithm that generalizes.

Nanda, Chan, Lieberum, Smith & Steinhardt (2023, arXiv:2301.05217, section 5.1): a network that has
learned c = a + b mod p has logits made of waves cos(w_k c), sin(w_k c), w_k = 2 pi k / p, of a
few key frequencies k. As functions of the input, its logits Z (n, p) over all n pairs are split by
the orthogonal projections P_0 on the constant and P on the waves of the key frequencies:

- restricted loss: that of (P_0 + P) Z over all pairs. It falls while the algorithm is built.
- excluded loss: that of Z - P Z over the training pairs. It rises while the network comes to rest
  on the algorithm instead of on memory.
- logit share: |P Z|^2 / |Z - P_0 Z|^2, with each pair's mean over the outputs taken off before,
  which no probability depends on: the share of the logits' variance in key frequencies.

The waves are those of the result, so that other operations on residues than addition have the
measures too; where a network uses another wave, as of the discrete logarithm for multiplication,
they stay low. Cost: O(n p f) for f frequencies, and one QR decomposition of an (n, 2 f + 1) matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from grokscope.arguments import checked_arguments
from grokscope.measures.fourier import fourier_spectrum
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown


@shown()
@dataclass(frozen=True, repr=False)
class ProgressMeasures:
    """What `progress_measures` found; losses are cross-entropies in nats.

    Attributes:
        restricted_loss: that of key frequencies alone, over all pairs.
        excluded_loss: that of everything else, over the training pairs.
        logit_share: share of the logits' variance in key frequencies, in [0, 1]; NaN where the
            logits do not vary.
    """

    restricted_loss: float
    excluded_loss: float
    logit_share: float


@checked_arguments
@without_autocast
def key_frequencies(weight: Float[Tensor, "m d"], modulus: int, num: int = 5) -> list[int]:
    """The ``num`` frequencies at which a weight over residues is largest, the constant left out.

    For the network's key frequencies pass the neuron-logit map, unembedding times the MLP's output
    weight (p, d_mlp), of the trained network (Nanda et al. 2023, section 4).

    Args:
        weight: a weight (m, d) whose first p rows belong to the residues.
        modulus: p.
        num: how many.

    Raises:
        ValueError: if ``num`` is not from 1 to p // 2, or as for `fourier_gini`.

    Example:
        >>> import torch, grokscope as gs
        >>> angle = 2 * torch.pi * torch.arange(11) / 11
        >>> gs.key_frequencies(torch.stack([(4 * angle).cos(), 3 * (2 * angle).sin()], 1), 11, 2)
        [2, 4]
    """
    spectrum = fourier_spectrum(weight, modulus)[1:]
    if not 1 <= num <= len(spectrum):
        raise ValueError(f"num must be from 1 to {len(spectrum)} for modulus {modulus}: got {num}")
    return sorted(int(place) + 1 for place in spectrum.topk(num).indices)


@checked_arguments
def progress_measures(
    logits: Float[Tensor, "n p"],
    results: Int64[Tensor, " n"],
    train: Bool[Tensor, " n"],
    frequencies: Sequence[int],
) -> ProgressMeasures:
    """Restricted loss, excluded loss and logit share of a network's logits on all pairs.

    Args:
        logits: Z, one output for each residue.
        results: a o b mod p of every pair, which are the labels too.
        train: which pairs are for training.
        frequencies: the key frequencies, from 1 to p // 2, each once.

    Raises:
        ValueError: if the shapes do not belong together, a frequency is out of range or double, or
            no pair is for training.

    Example:
        >>> import torch, grokscope as gs
        >>> c = torch.arange(7).repeat(7)
        >>> distance = c[:, None] - torch.arange(7)
        >>> logits = 20 * (2 * torch.pi * 3 * distance / 7).cos()
        >>> found = gs.progress_measures(logits, c, c < 3, [3])
        >>> round(found.restricted_loss, 3), round(found.excluded_loss, 3)  # the latter: log 7
        (0.001, 1.946)
    """
    _check(logits, results, train, frequencies)
    z = logits.detach().double()
    constant = z.mean(0)
    basis = _waves(results, frequencies, logits.shape[1])
    on_waves = basis @ (basis.T @ z)
    restricted = constant + on_waves
    excluded = (z - on_waves)[train]
    relative = z - z.mean(1, keepdim=True)
    varying = (relative - relative.mean(0)).square().sum()
    share = (basis.T @ relative).square().sum() / varying
    return ProgressMeasures(
        restricted_loss=float(cross_entropy(restricted, results)),
        excluded_loss=float(cross_entropy(excluded, results[train])),
        logit_share=float(share),
    )


def _waves(
    results: Int64[Tensor, " n"], frequencies: Sequence[int], modulus: int
) -> Float[Tensor, "n w"]:
    """An orthonormal basis of the waves of the results, each orthogonal to the constant.

    Over all pairs of an addition they are orthogonal as they come; of a product, whose results are
    not equally frequent, they are not, hence the QR decomposition.
    """
    k = torch.tensor(list(frequencies), device=results.device)
    angle = 2 * math.pi * (results[:, None] * k % modulus).double() / modulus
    # The sine of the highest frequency of an even p is zero, and no direction.
    sines = angle.sin()[:, 2 * k != modulus]
    waves = torch.cat([angle.cos(), sines], 1)
    return torch.linalg.qr(waves - waves.mean(0)).Q


def _check(logits: Tensor, results: Tensor, train: Tensor, frequencies: Sequence[int]) -> None:
    n, modulus = logits.shape
    if tuple(results.shape) != (n,) or tuple(train.shape) != (n,):
        raise ValueError(
            f"results and train need one entry for each of the {n} rows of logits: got shapes "
            f"{tuple(results.shape)} and {tuple(train.shape)}"
        )
    if int(results.min()) < 0 or int(results.max()) >= modulus:
        raise ValueError(
            f"results must be residues from 0 to {modulus - 1}, as logits have {modulus} outputs: "
            f"got {int(results.min())} to {int(results.max())}"
        )
    if not bool(train.any()):
        raise ValueError("train marks no pair: the excluded loss is of the training pairs")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits holds NaN or infinity")
    highest = modulus // 2
    if not frequencies or len(set(frequencies)) < len(frequencies):
        raise ValueError(f"frequencies must be one or more, each once: got {list(frequencies)}")
    if not all(1 <= k <= highest for k in frequencies):
        raise ValueError(f"frequencies must be from 1 to {highest}: got {list(frequencies)}")
