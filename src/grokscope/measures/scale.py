"""Layers without parameters that the Jacobian measures and penalties know as parts of a chain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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


class Normalize(nn.Module):
    """Subtracts a mean from images and divides by a standard deviation, for all channels or each.

    The two are buffers: they follow the model to its device and dtype and are not trained.

    Raises:
        ValueError: if ``mean`` and ``std`` differ in length, or ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        center, spread = (torch.as_tensor(value).float().reshape(-1, 1, 1) for value in (mean, std))
        if len(center) != len(spread) or not bool(center.isfinite().all()):
            raise ValueError(
                f"mean and std must be a number each, or one for each channel: got {mean} and {std}"
            )
        if not bool((spread > 0).all()):
            raise ValueError(f"std must be positive: got {std}")
        self.register_buffer("mean", center)
        self.register_buffer("std", spread)

    def forward(self, x: Tensor) -> Tensor:
        """``(x - mean) / std`` of images (n, channels, height, width)."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return ", ".join(
            f"{name}={[round(float(v), 4) for v in value.flatten()]}"
            for name, value in (("mean", self.mean), ("std", self.std))
        )
