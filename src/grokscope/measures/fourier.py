"""The Fourier components of a weight over the residues mod p.

A network that has learned modular addition holds few of them (Nanda et al. 2023, arXiv:2301.05217),
so that the Gini coefficient of their lengths rises while it groks.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_batch
from grokscope.measures.precision import without_autocast
from grokscope.measures.sparsity import gini


@checked_arguments
@without_autocast
def fourier_gini(weight: Float[Tensor, "m d"], modulus: int) -> Float[Tensor, ""]:
    """The Gini coefficient of the lengths of a weight's Fourier components over the residues.

    The first ``modulus`` rows of ``weight`` belong to the residues 0..p-1, as in the embedding of
    a network for arithmetic mod p. They are written in the orthonormal basis of the constant,
    cosines and sines; the length of a component is that of its d coefficients. The constant counts.
    For a linear layer on one-hot residues pass ``layer.weight[:, :p].T``.

    Args:
        weight: a weight (m, d) with m >= modulus; further rows, as of a token "=", are left out.
        modulus: p.

    Returns:
        A scalar in [0, 1).

    Raises:
        ValueError: if ``modulus`` is less than 2 or ``weight`` has fewer rows.

    Example:
        >>> import torch, grokscope as gs
        >>> angle = 2 * torch.pi * torch.arange(7) / 7
        >>> gs.fourier_gini(torch.stack([angle.cos(), angle.sin()], dim=1), 7)
        tensor(0.7143)
    """
    return gini(_lengths(weight, modulus))


@checked_arguments
@without_autocast
def fourier_spectrum(weight: Float[Tensor, "m d"], modulus: int) -> Float[Tensor, " f"]:
    """The length of a weight's Fourier component at each frequency, cosine and sine together.

    The squares add up to the squared norm of the first ``modulus`` rows (Parseval).

    Args:
        weight: a weight (m, d) as for `fourier_gini`.
        modulus: p.

    Returns:
        Lengths (f,) at the frequencies 0, 1, ..., f - 1 with f = p // 2 + 1; the first is the
        constant.

    Raises:
        ValueError: as for `fourier_gini`.

    Example:
        >>> import torch, grokscope as gs
        >>> angle = 2 * torch.pi * torch.arange(7) / 7
        >>> weight = torch.stack([angle.cos(), (2 * angle).sin()], dim=1)
        >>> [round(float(length), 3) for length in gs.fourier_spectrum(weight, 7)]
        [0.0, 1.871, 1.871, 0.0]
    """
    squares = _lengths(weight, modulus).square()
    # The basis has the constant, then cosine and sine in turn; of the highest frequency of an even
    # p only the cosine. Pad its missing sine, and the constant's.
    padded = torch.nn.functional.pad(squares, (1, (modulus + 1) % 2))
    return padded.unflatten(0, (-1, 2)).sum(1).sqrt()


def _lengths(weight: Float[Tensor, "m d"], modulus: int) -> Float[Tensor, " p"]:
    """The length of each component of the first p rows in the basis."""
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2: got {modulus}")
    if weight.ndim != 2 or len(weight) < modulus:
        raise ValueError(
            f"weight needs a row for each of the {modulus} residues: got shape "
            f"{tuple(weight.shape)}; pass its transpose if the columns belong to the residues"
        )
    check_batch(weight, "weight")
    return (fourier_basis(modulus, weight) @ weight.detach()[:modulus]).norm(dim=1)


def fourier_basis(modulus: int, like: Tensor) -> Float[Tensor, "p p"]:
    """Rows: the constant, then cosine and sine of each frequency, of length 1, as ``like``."""
    residues = torch.arange(modulus, dtype=torch.float64, device=like.device)
    rows = [torch.ones_like(residues)]
    for frequency in range(1, modulus // 2 + 1):
        # exact to the last digit also for large products
        angle = 2 * math.pi * ((frequency * residues) % modulus) / modulus
        rows.append(angle.cos())
        if 2 * frequency != modulus:
            rows.append(angle.sin())
    basis = torch.stack(rows)
    return (basis / basis.norm(dim=1, keepdim=True)).to(like.dtype)
