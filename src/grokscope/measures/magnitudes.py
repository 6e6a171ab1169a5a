"""Norms and cosines that neither under- nor overflow while the vectors are representable.

A square leaves float32 where its root lies beyond 1e19 or below 1e-19, far inside the type's range:
a saturated softmax has input derivatives of 1e-23. Vectors are therefore divided by the power of
two next to their largest entry before anything is squared. That is exact: where no square leaves
the range, results are the same to the last bit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# numbers that are taken to float64 at once
_PIECE = 2**18


def inner_product(a: Tensor, b: Tensor) -> float:
    """The inner product of two tensors in float64, by pieces: they may fill the memory themselves.

    Example:
        >>> inner_product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        11.0
    """
    pieces = zip(a.flatten().split(_PIECE), b.flatten().split(_PIECE), strict=True)
    return float(sum(torch.dot(p.double(), q.double()) for p, q in pieces))


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: half-precision numbers are measured in float32."""
    if tensor.dtype is torch.float32:  # asked of every gradient at every step
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def power_of_two(size: Tensor) -> Tensor:
    """The powers of two next below some sizes; 1 for zero, infinity and NaN.

    Example:
        >>> power_of_two(torch.tensor([0.0, 3.0, 0.3]))
        tensor([1.0000, 2.0000, 0.2500])
    """
    size = size.detach()
    # exact, for size is its mantissa times a power of two; of 0 and infinity it is undefined
    powers = (size / (2 * torch.frexp(size).mantissa)).nan_to_num(1)
    least = torch.finfo(size.dtype).tiny  # a power of two: the normal ones whose inverse is one too
    return powers.clamp(least, 1 / least)


def scaled(vectors: Float[Tensor, "*n d"]) -> tuple[Float[Tensor, "*n d"], Float[Tensor, "*n"]]:
    """Vectors whose largest entry lies between 1 and 2, and the powers of two they were divided by.

    A vector of length 0 comes back as it is.
    """
    if vectors.shape[-1] == 0:
        return vectors, vectors.new_ones(vectors.shape[:-1])
    # ten times faster on a CPU than the norm of order infinity
    size = power_of_two(vectors.detach().abs().amax(-1))
    return vectors / size.unsqueeze(-1), size


def norms(vectors: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """The Euclidean norms of vectors.

    Example:
        >>> norms(torch.tensor([3e-30, 4e-30]))
        tensor(5.0000e-30)
    """
    small, size = scaled(vectors)
    return torch.linalg.vector_norm(small, dim=-1) * size


def cosines(a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """The cosines between vectors, within [-1, 1]; 0 where one of the two is zero.

    Example:
        >>> cosines(torch.tensor([3e-30, 4e-30]), torch.tensor([3e20, 4e20]))
        tensor(1.)
    """
    a, b = scaled(a)[0], scaled(b)[0]
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return cosine((a * b).sum(-1), lengths)


def cosine(inner: Float[Tensor, "*n"], lengths: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The quotient inner / lengths within [-1, 1], 0 where the lengths' product is 0."""
    return torch.where(lengths == 0, 0, inner / lengths).clamp(-1, 1)
