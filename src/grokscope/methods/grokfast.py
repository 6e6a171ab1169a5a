"""Grokfast: amplify the slow part of the gradients.

Lee, Kang, Kim & Lee (2024), "Grokfast: Accelerated Grokking by Amplifying Slow Gradients",
arXiv:2405.20233. With g_t the gradient of step t, the optimizer is given

    g_t + strength * m_t,    m_t = alpha m_{t-1} + (1 - alpha) g_t,  m_0 = g_1   ("ema")
                             m_t = mean of g_{t-window+1} ... g_t                ("ma")

Cost: two passes over the parameters a step; "ema" keeps one copy of them, "ma" ``window`` copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.methods.base import Method, gradients


def slow_gradient_ema(
    gradient: Float[Tensor, " *p"], mean: Float[Tensor, " *p"] | None, alpha: float = 0.98
) -> Float[Tensor, " *p"]:
    """The exponential moving average of a parameter's gradients, this one taken in.

    Add ``strength`` times it to the gradient before the optimizer's step. Elementwise, so that
    gradients of networks stacked on a leading axis serve as well.

    Args:
        gradient: Of this step.
        mean: What the step before returned; None at the first step.
        alpha: Share of the past, in [0, 1).

    >>> import torch, grokscope as gs
    >>> gs.slow_gradient_ema(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), alpha=0.75)
    tensor([0.2500, 0.7500])
    """
    return gradient.clone() if mean is None else torch.lerp(mean, gradient, 1 - alpha)


def slow_gradient_ma(window: Float[Tensor, " w *p"]) -> Float[Tensor, " *p"]:
    """The mean of a parameter's last gradients, w of them in any order.

    >>> import torch, grokscope as gs
    >>> gs.slow_gradient_ma(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 0.5000])
    """
    return window.mean(0)


class _Exponential:
    """The exponential average of one parameter's gradients."""

    def __init__(self, alpha: float, mean: Tensor | None = None) -> None:
        self._alpha = alpha
        self._mean = mean

    def take(self, gradient: Tensor) -> Tensor:
        if self._mean is not None:
            self._mean = self._mean.to(gradient)
        self._mean = slow_gradient_ema(gradient, self._mean, self._alpha)
        return self._mean

    def state(self) -> dict[str, Any]:
        return {"mean": self._mean}


class _Windowed:
    """The last gradients of one parameter in a ring, and their sum.

    The sum is taken anew whenever the ring closes: otherwise the rounding of additions and
    subtractions would add up over a long training.
    """

    def __init__(
        self, size: int, ring: Tensor | None = None, total: Tensor | None = None, count: int = 0
    ) -> None:
        self._size = size
        self._ring = ring
        self._total = total
        self._count = count

    def take(self, gradient: Tensor) -> Tensor | None:
        if self._ring is None or self._total is None:
            self._ring = gradient.new_zeros(self._size, *gradient.shape)
            self._total = torch.zeros_like(gradient)
        self._ring, self._total = self._ring.to(gradient), self._total.to(gradient)
        place = self._count % self._size
        self._count += 1
        if place == self._size - 1:
            self._ring[place] = gradient
            self._total = self._ring.sum(0)
        else:
            self._total += gradient - self._ring[place]
            self._ring[place] = gradient
        return self._total / self._size if self._count >= self._size else None

    def state(self) -> dict[str, Any]:
        return {"ring": self._ring, "total": self._total, "count": self._count}


_Average = _Exponential | _Windowed


class Grokfast(Method):
    """Adds the slow part of the gradients to them, ``strength`` times.

    In one's own loop call it with the model between ``backward`` and the optimizer's step. The
    defaults are those of the authors' code; on MNIST they used alpha 0.8 and strength 0.1. With
    "ma" nothing is added before ``window`` steps are seen, as in their code.

    Args:
        kind: "ema", an exponential moving average, or "ma", the mean of the last ``window``.
        strength: How many times the slow gradient is added; 0 leaves training as it is, bit for
            bit. None is 2 for "ema" and 5 for "ma".
        alpha: Share of the past in the exponential average, in [0, 1).
        window: Steps in the mean. It keeps as many copies of the parameters, also in checkpoints.

    Raises:
        ValueError: If an argument is out of range.

    >>> import torch, grokscope as gs
    >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
    >>> grokfast = gs.Grokfast(alpha=0.98, strength=2.0)
    >>> torch.nn.functional.cross_entropy(model(x), y).backward()
    >>> grokfast(model)  # and then optimizer.step()
    """

    name: ClassVar[str] = "grokfast"

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
        self._averages: dict[str, _Average] = {}

    def filter_gradients(self, step: int, model: nn.Module) -> None:
        """Add the slow gradients to those of ``model``."""
        self.add_slow_gradients(gradients(model))

    def add_slow_gradients(self, own: Iterable[tuple[str, nn.Parameter, Tensor]]) -> None:
        """The same for parameters given with their names and gradients."""
        if self.strength == 0:
            return
        for name, _, gradient in own:
            if name not in self._averages:
                self._averages[name] = self._average()
            slow = self._averages[name].take(gradient)
            if slow is not None:
                gradient.add_(slow, alpha=self.strength)

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop, where every call counts as one step."""
        self.filter_gradients(0, model)

    def state_dict(self) -> dict[str, Any]:
        """The slow gradients, by the names of the parameters."""
        return {
            f"{key}.{name}": value
            for name, average in self._averages.items()
            for key, value in average.state().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        remembered: dict[str, dict[str, Any]] = {}
        for path, value in state.items():
            key, _, name = path.partition(".")
            remembered.setdefault(name, {})[key] = (
                value.clone() if isinstance(value, Tensor) else value
            )
        self._averages = {name: self._average(**values) for name, values in remembered.items()}

    def _average(self, **remembered: Any) -> _Average:
        if self.kind == "ema":
            return _Exponential(self.alpha, **remembered)
        return _Windowed(self.window, **remembered)
