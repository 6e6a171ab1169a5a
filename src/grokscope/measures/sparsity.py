"""How unevenly numbers are distributed, and the Fourier components of a weight among them.

A network that has learned modular addition holds few Fourier components of the residues (Nanda et
al. 2023, arXiv:2301.05217), so that the Gini coefficient of their lengths rises while it groks.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def gini(x: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The Gini coefficient of the absolute values of all elements.

    With |x| sorted upwards, G = sum_i (2 i - n - 1) |x_i| / (n sum_i |x_i|): 0 where all are
    equal, 1 - 1/n where one alone is not 0 (Hurley & Rickard 2009, arXiv:0811.4706). It does not
    change with scale or order. Cost: a sort.

    Args:
        x: Numbers in any shape.

    Returns:
        A scalar in [0, 1); 0 where all numbers are 0.

    Raises:
        ValueError: If ``x`` is empty or not finite.

    >>> import torch, grokscope as gs
    >>> gs.gini(torch.tensor([0.0, 0.0, 0.0, 5.0]))
    tensor(0.7500)
    """
    values = x.detach().flatten().abs().sort().values
    n = len(values)
    if n == 0:
        raise ValueError("x is empty: pass at least one number")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("x holds NaN or infinity")
    rank = 2 * torch.arange(1, n + 1, dtype=x.dtype, device=x.device) - n - 1
    total = values.sum()
    return torch.where(total > 0, (rank * values).sum() / (n * total.where(total > 0, 1)), 0)


def fourier_gini(weight: Float[Tensor, "m d"], modulus: int) -> Float[Tensor, ""]:
    """The Gini coefficient of the lengths of a weight's Fourier components over the residues.

    The first ``modulus`` rows of ``weight`` belong to the residues 0..p-1, as in the embedding of
    a network for arithmetic mod p. They are written in the orthonormal basis of the constant,
    cosines and sines; the length of a component is that of its d coefficients. The constant counts.
    For a linear layer on one-hot residues pass ``layer.weight[:, :p].T``.

    Args:
        weight: A weight (m, d) with m >= modulus; further rows, as of a token "=", are left out.
        modulus: p.

    Returns:
        A scalar in [0, 1).

    Raises:
        ValueError: If ``modulus`` is less than 2 or ``weight`` has fewer rows.

    >>> import torch, grokscope as gs
    >>> angle = 2 * torch.pi * torch.arange(7) / 7
    >>> gs.fourier_gini(torch.stack([angle.cos(), angle.sin()], dim=1), 7)
    tensor(0.7143)
    """
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2: got {modulus}")
    if len(weight) < modulus:
        raise ValueError(
            f"weight needs a row for each of the {modulus} residues: got shape "
            f"{tuple(weight.shape)}; pass its transpose if the columns belong to the residues"
        )
    return gini((_basis(modulus, weight) @ weight.detach()[:modulus]).norm(dim=1))


def _basis(modulus: int, like: Tensor) -> Float[Tensor, "p p"]:
    """Rows: the constant, then cosine and sine of each frequency, of length 1."""
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
