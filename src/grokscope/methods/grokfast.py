"""Grokfast: amplify the slow part of the gradients.

Lee, Kang, Kim & Lee (2024), "Grokfast: Accelerated Grokking by Amplifying Slow Gradients",
arXiv:2405.20233. With g_t the gradient of step t, the optimizer is given

    g_t + strength * m_t,    m_t = alpha m_{t-1} + (1 - alpha) g_t,  m_0 = g_1   ("ema")
                             m_t = mean of g_{t-window+1} ... g_t                ("ma")

Cost: two passes over the parameters a step; "ema" keeps one copy of them, "ma" ``window`` copies.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, OneNetwork


def slow_gradient_ema(
    gradient: Float[Tensor, " *p"], mean: Float[Tensor, " *p"] | None, alpha: float = 0.98
) -> Float[Tensor, " *p"]:
    """The exponential moving average of a parameter's gradients, this one taken in.

    Add ``strength`` times it to the gradient before the optimizer's step. Elementwise, so that
    gradients of networks stacked on a leading axis serve as well.

    Args:
        gradient: of this step.
        mean: what the step before returned; None at the first step.
        alpha: share of the past, in [0, 1).

    Example:
        >>> import torch, grokscope as gs
        >>> gs.slow_gradient_ema(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), alpha=0.75)
        tensor([0.2500, 0.7500])
    """
    return gradient.clone() if mean is None else torch.lerp(mean, gradient, 1 - alpha)


def slow_gradient_ma(window: Float[Tensor, " w *p"]) -> Float[Tensor, " *p"]:
    """The mean of a parameter's last gradients, w of them in any order.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.slow_gradient_ma(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000])
    """
    return window.mean(0)


class Grokfast(Method):
    """Adds the slow part of the gradients to them, ``strength`` times.

    In one's own loop call it with the model between ``backward`` and the optimizer's step. The
    defaults are those of the authors' code; on MNIST they used alpha 0.8 and strength 0.1. With
    "ma" nothing is added before ``window`` steps are seen, as in their code.

    Args:
        kind: "ema", an exponential moving average, or "ma", the mean of the last ``window``.
        strength: how many times the slow gradient is added; 0 leaves training as it is, bit for
            bit. None is 2 for "ema" and 5 for "ma".
        alpha: share of the past in the exponential average, in [0, 1).
        window: steps in the mean. It keeps as many copies of the parameters, also in checkpoints.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> grokfast = gs.Grokfast(alpha=0.98, strength=2.0)
        >>> torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> grokfast(model)  # and then optimizer.step()
    """

    name: ClassVar[str] = "grokfast"
    stays_in_span: ClassVar[bool] = True

    def __init__(
        self,
        kind: str = "ema",
        strength: float | None = None,
        alpha: float = 0.98,
        window: int = 100,
    ) -> None:
        if kind not in ("ema", "ma"):
            raise ValueError(f"kind must be 'ema' or 'ma': got {kind!r}")
        if strength is None:
            strength = 2.0 if kind == "ema" else 5.0
        if not 0 <= strength < float("inf"):
            raise ValueError(f"strength must be 0 or positive, and finite: got {strength}")
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be at least 0 and less than 1: got {alpha}")
        if window < 1:
            raise ValueError(f"window must be a positive integer: got {window}")
        self.kind = kind
        self.strength = strength
        self.alpha = alpha
        self.window = window

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Add the slow gradients to the gradients."""
        if self.strength == 0:
            return
        for name, _, gradient in networks.gradients():
            slow = self._ema(name, gradient) if self.kind == "ema" else self._ma(name, gradient)
            if slow is not None:
                gradient.add_(slow, alpha=self.strength)

    def _ema(self, name: str, gradient: Float[Tensor, " s *p"]) -> Float[Tensor, " s *p"]:
        """The exponential average of one parameter's gradients, updated in place."""
        mean = self._remembered(f"mean.{name}", gradient)
        if mean is None:
            mean = self.state[f"mean.{name}"] = gradient.clone()
            return mean
        return torch.lerp(mean, gradient, 1 - self.alpha, out=mean)

    def _ma(self, name: str, gradient: Float[Tensor, " s *p"]) -> Float[Tensor, " s *p"] | None:
        """The mean of the last gradients of one parameter, from a ring of them and their sum.

        The sum is taken anew whenever the ring closes: otherwise the rounding of additions and
        subtractions would add up over a long training.
        """
        ring = self._remembered(f"ring.{name}", gradient)
        total = self._remembered(f"total.{name}", gradient)
        if ring is None or total is None:
            ring = gradient.new_zeros(len(gradient), self.window, *gradient.shape[1:])
            total = torch.zeros_like(gradient)
        count = self.state.get(f"count.{name}", 0)
        place = count % self.window
        if place == self.window - 1:
            ring[:, place] = gradient
            total = ring.sum(1)
        else:
            total += gradient - ring[:, place]
            ring[:, place] = gradient
        self.state |= {f"ring.{name}": ring, f"total.{name}": total, f"count.{name}": count + 1}
        return total / self.window if count + 1 >= self.window else None

    def _remembered(self, key: str, like: Tensor) -> Tensor | None:
        """A tensor of the state where and in the precision that the gradients are."""
        if key in self.state:
            self.state[key] = self.state[key].to(like)
        return self.state.get(key)

    def capturable(self) -> bool:
        """With "ema" yes; the ring of "ma" is written to a place that Python counts."""
        return self.kind == "ema"

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop, where every call counts as one step."""
        self.filter_gradients(0, OneNetwork(model))
