"""A layer that multiplies by a constant, which the Jacobian measures know as part of a chain."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by a constant, ``factor``, which is not trained."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """``factor * x``."""
        return self.factor * x

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"factor={self.factor}"
