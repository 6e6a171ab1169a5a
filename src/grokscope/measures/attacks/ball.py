"""The set that an attack may move an example in: a ball of a norm, cut by the range of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NORMS = ("Linf", "L2")


@dataclass(frozen=True)
class Ball:
    """All points within ``eps`` of an example, in l-infinity or l2, and within ``bounds``.

    Attributes:
        norm: "Linf" or "L2".
        eps: the radius.
        bounds: lowest and highest value of an input; None for inputs without a range.
    """

    norm: str
    eps: float
    bounds: tuple[float, float] | None

    def project(
        self, points: Float[Tensor, " n *d"], centers: Float[Tensor, " n *d"]
    ) -> Float[Tensor, " n *d"]:
        """Points near the given ones that lie in the balls around ``centers``.

        In l-infinity the nearest. In l2 the range is cut off after the ball: since the center lies
        within it, the point stays in both.
        """
        if self.norm == "Linf":
            moved = points.clamp(centers - self.eps, centers + self.eps)
        else:
            step = points - centers
            length = _lengths(step)
            moved = centers + step * (self.eps / length.clamp_min(1e-30)).clamp_max(1)
        return moved if self.bounds is None else moved.clamp(*self.bounds)

    def steepest(self, gradient: Float[Tensor, " n *d"]) -> Float[Tensor, " n *d"]:
        """The step of length one in the norm along which a loss with this gradient rises most."""
        if self.norm == "Linf":
            return gradient.sign()
        return gradient / _lengths(gradient).clamp_min(1e-30)

    def start(
        self, centers: Float[Tensor, " n *d"], generator: torch.Generator
    ) -> Float[Tensor, " n *d"]:
        """A random point of every ball, at distance ``eps`` before the range cuts it off."""
        shape, draw = centers.shape, torch.rand if self.norm == "Linf" else torch.randn
        noise = draw(shape, generator=generator, dtype=centers.dtype, device=generator.device)
        noise = noise.to(centers.device)
        if self.norm == "Linf":
            noise = 2 * noise - 1
            length = noise.flatten(1).abs().amax(1).view(-1, *[1] * (centers.ndim - 1))
        else:
            length = _lengths(noise)
        return self.project(centers + self.eps * noise / length.clamp_min(1e-30), centers)


def _lengths(x: Float[Tensor, " n *d"]) -> Tensor:
    """Euclidean lengths, of shape (n, 1, ..., 1)."""
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
