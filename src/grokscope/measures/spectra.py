"""Eigenvalues of Gram matrices, also of those for which LAPACK's eigensolver gives up.

Its iteration comes to no end for a finite matrix in rare cases (seen in float32 after 128,000
steps on MNIST, for the Jacobian of one image in 256: its rows parallel, of lengths from 1 down to
1e-26), and then says so for a whole batch. A measurement must not end a training: what failed is
done again in float64 by the singular value decomposition, which for a positive semidefinite matrix
is the same, and costs several times more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Eigen(NamedTuple):
    """Eigenvalues, least first, and eigenvectors in columns."""

    values: Float[Tensor, "*b k"]
    vectors: Float[Tensor, "*b k k"]


def gram_eigenvalues(gram: Float[Tensor, "*b k k"]) -> Float[Tensor, "*b k"]:
    """Eigenvalues of positive semidefinite matrices, least first.

    Example:
        >>> gram_eigenvalues(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([1., 2.])
    """
    try:
        return torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        return torch.linalg.svdvals(gram.double()).flip(-1).to(gram.dtype)


def gram_eigen(gram: Float[Tensor, "*b k k"]) -> Eigen:
    """Eigenvalues and eigenvectors of positive semidefinite matrices."""
    try:
        return Eigen(*torch.linalg.eigh(gram))
    except torch.linalg.LinAlgError:
        vectors, values, _ = torch.linalg.svd(gram.double())
        return Eigen(values.flip(-1).to(gram.dtype), vectors.flip(-1).to(gram.dtype))
