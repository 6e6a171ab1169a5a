"""How unevenly numbers are distributed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gini(x: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The Gini coefficient of the absolute values of all elements.

    With |x| sorted upwards, G = sum_i (2 i - n - 1) |x_i| / (n sum_i |x_i|): 0 where all are
    equal, 1 - 1/n where one alone is not 0 (Hurley & Rickard 2009, arXiv:0811.4706). It does not
    change with scale or order. Cost: a sort.

    Args:
        x: numbers in any shape.

    Returns:
        A scalar in [0, 1); 0 where all numbers are 0.

    Raises:
        ValueError: if ``x`` is empty or not finite.

    Example:
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
