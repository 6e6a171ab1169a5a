"""How unevenly numbers are distributed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.precision import without_autocast


@checked_arguments
@without_autocast
def gini(x: Shaped[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The Gini coefficient of the absolute values of all elements.

    With |x| sorted upwards, G = sum_i (2 i - n - 1) |x_i| / (n sum_i |x_i|): 0 where all are
    equal, 1 - 1/n where one alone is not 0 (Hurley & Rickard 2009, arXiv:0811.4706). It does not
    change with scale or order. Cost: a sort.

    Args:
        x: numbers in any shape, of any type.

    Returns:
        A scalar in [0, 1); 0 where all numbers are 0.

    Raises:
        ValueError: if ``x`` is empty or not finite.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.gini(torch.tensor([0.0, 0.0, 0.0, 5.0]))
        tensor(0.7500)
    """
    if x.numel() == 0:
        raise ValueError("x is empty: pass at least one number")
    # in float64: integers would wrap around, and ranks beyond 2^24 are not whole in float32
    values = (x.detach().abs() if x.is_complex() else x.detach().double().abs()).flatten()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("x holds NaN or infinity")
    size = values.amax()
    values = (values.double() / size.where(size > 0, 1)).sort().values
    n = len(values)
    rank = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=x.device) - n - 1
    total = values.sum()
    found = torch.where(total > 0, (rank * values).sum() / (n * total.where(total > 0, 1)), 0)
    real = x.dtype.to_real() if x.is_complex() else x.dtype
    return found.to(torch.promote_types(real, torch.float32))
