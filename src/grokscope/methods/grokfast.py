"""Grokfast: amplify the slow part of the gradients.

Lee, Kang, Kim & Lee (2024), "Grokfast: Accelerated Grokking by Amplifying Slow Gradients",
arXiv:2405.20233. With g_t the gradient of step t, the optimizer is given

    g_t + strength * m_t,    m_t = alpha m_{t-1} + (1 - alpha) g_t,  m_0 = g_1   ("ema")
                             m_t = mean of g_{t-window+1} ... g_t                ("ma")

What is remembered is kept in float32 where gradients are of half precision: bfloat16 has no room
for a share of 0.02. Cost: three passes over the parameters a step; "ema" keeps one copy of them,
"ma" ``window`` copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.magnitudes import wide
from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, OneNetwork

# which networks may be used, (S,); None for all
_Rows = Tensor | None


@checked_arguments
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
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and less than 1: got {alpha}")
    return gradient.clone() if mean is None else torch.lerp(mean, gradient, 1 - alpha)


@checked_arguments
def slow_gradient_ma(window: Float[Tensor, " w *p"]) -> Float[Tensor, " *p"]:
    """The mean of a parameter's last gradients, w of them in any order.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.slow_gradient_ma(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000])
    """
    if len(window) == 0:
        raise ValueError("window is empty: pass at least one gradient")
    return window.mean(0)


class Grokfast(Method):
    """Adds the slow part of the gradients to them, ``strength`` times.

    In one's own loop call it with the model between ``backward`` and the optimizer's step, and with
    a ``GradScaler`` after ``scaler.unscale_(optimizer)``. A step whose gradients are not finite,
    which a scaler skips, is left out of the average; sparse gradients become dense ones. The
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

    @checked_arguments
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
        self._loaded = False

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Add the slow gradients to the gradients.

        A network with an infinite or undefined gradient, whose step a ``GradScaler`` skips, keeps
        its gradients and what is remembered of it.
        """
        if self.strength == 0:
            return
        self._check_loaded(networks)
        gradients = networks.named_gradients()
        if not gradients:
            return
        finite = _are_finite(list(gradients.values()))
        given = {name: wide(gradient) for name, gradient in gradients.items()}
        if self.kind == "ma":
            means = {name: self._ma(name, own, finite) for name, own in given.items()}
            slow = {name: mean for name, mean in means.items() if mean is not None}
        elif finite is None and not any(f"seen.{name}" in self.state for name in given):
            slow = self._ema(given)
        else:
            slow = {name: self._ema_of_some(name, own, finite) for name, own in given.items()}
        if slow:
            torch._foreach_add_(
                [gradients[name] for name in slow], list(slow.values()), alpha=self.strength
            )

    def _ema(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The exponential averages, updated in place, where no gradient was ever left out."""
        means = {}
        for name, own in gradients.items():
            mean = self._remembered(f"mean.{name}", own)
            if mean is None:  # the first gradient is taken whole
                mean = self.state[f"mean.{name}"] = own.clone()
            means[name] = mean
        torch._foreach_lerp_(list(means.values()), list(gradients.values()), 1 - self.alpha)
        return means

    def _ema_of_some(
        self, name: str, gradient: Float[Tensor, " s *p"], finite: _Rows
    ) -> Float[Tensor, " s *p"]:
        """What to add of one parameter's exponential average, which is updated in place."""
        mean = self._remembered(f"mean.{name}", gradient)
        seen = self.state.get(f"seen.{name}")
        if mean is None:
            mean = self.state[f"mean.{name}"] = torch.zeros_like(gradient)
            seen = torch.zeros(len(mean), dtype=torch.bool, device=mean.device)
        every = torch.ones(len(mean), dtype=torch.bool, device=mean.device)
        finite = every if finite is None else finite
        seen = every if seen is None else seen.to(mean.device)
        # The first finite gradient is taken whole; in place, for a recorded step writes there.
        share = mean.new_ones(len(mean)).masked_fill(seen, 1 - self.alpha)
        given = gradient.where(_by_row(finite, mean), mean)
        mean.lerp_(given, _by_row(share, mean))
        self.state[f"seen.{name}"] = seen.logical_or_(finite)
        return mean.where(_by_row(finite, mean), 0)

    def _ma(
        self, name: str, gradient: Float[Tensor, " s *p"], finite: _Rows
    ) -> Float[Tensor, " s *p"] | None:
        """What to add of the mean of one parameter's last gradients, from a ring and its sum.

        The sum is taken anew whenever the ring closes: otherwise the rounding of additions and
        subtractions would add up over a long training. Every network counts the steps that it has
        taken; networks at the same count are treated together.
        """
        ring = self._remembered(f"ring.{name}", gradient)
        total = self._remembered(f"total.{name}", gradient)
        if ring is None or total is None:
            total = torch.zeros_like(gradient)
            ring = total.new_zeros(len(gradient), self.window, *gradient.shape[1:])
            self.state.pop(f"count.{name}", None)
        counts = _counts(self.state.get(f"count.{name}", 0), len(gradient))
        usable = [True] * len(gradient) if finite is None else finite.tolist()
        for count in {own for own, ok in zip(counts, usable, strict=True) if ok}:
            rows = [row for row, ok in enumerate(usable) if ok and counts[row] == count]
            every = len(rows) == len(gradient)
            own: slice | list[int] = slice(None) if every else rows
            place = count % self.window
            given = gradient if every else gradient[rows]
            change = given - ring[own, place]
            ring[own, place] = given
            if place == self.window - 1:
                total[own] = ring[own].sum(1)
            elif every:
                total += change
            else:
                total[own] += change
        counts = [own + ok for own, ok in zip(counts, usable, strict=True)]
        self.state |= {
            f"ring.{name}": ring,
            f"total.{name}": total,
            f"count.{name}": torch.tensor(counts),
        }
        ready = [ok and own >= self.window for own, ok in zip(counts, usable, strict=True)]
        if not any(ready):
            return None
        slow = total / self.window
        return slow if all(ready) else slow.where(_by_row(torch.tensor(ready), slow), 0)

    def _remembered(self, key: str, like: Tensor) -> Tensor | None:
        """A tensor of the state where the gradients are, in their precision.

        None also where it is of another shape: of a layer that was replaced.
        """
        found = self.state.get(key)
        if found is not None and found.shape[1 + found.ndim - like.ndim :] != like.shape[1:]:
            return None
        if found is not None and (found.dtype is not like.dtype or found.device != like.device):
            found = self.state[key] = found.to(like)
        return found

    def load_state_dict(self, *states: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, one dictionary for each network.

        Raises:
            ValueError: if it is the state of another kind or window. Whether its names and shapes
                are those of the model's parameters is checked at the next step.
        """
        kept = ("mean", "seen") if self.kind == "ema" else ("ring", "total", "count")
        for key, value in (item for own in states for item in own.items()):
            part = key.partition(".")[0]
            if part not in kept:
                raise ValueError(
                    f"state_dict holds {key!r}, which Grokfast(kind={self.kind!r}) does not keep: "
                    "load it into a method of the kind that it was saved from"
                )
            if part == "ring" and len(value) != self.window:
                raise ValueError(
                    f"state_dict holds windows of {len(value)} steps, and window is {self.window}"
                )
        super().load_state_dict(
            *(
                {key.replace("_orig_mod.", ""): value for key, value in own.items()}
                for own in states
            )
        )
        self._loaded = True

    def _check_loaded(self, networks: Networks) -> None:
        """Raise unless what was loaded is of these networks' parameters."""
        if not self._loaded:
            return
        shapes = networks.named_shapes()
        for key, value in self.state.items():
            part, _, name = key.partition(".")
            if name not in shapes:
                raise ValueError(
                    f"the state that was loaded is of a parameter {name!r}, which the model does "
                    f"not have: its parameters are {', '.join(shapes)}"
                )
            if part in ("mean", "total") and value.shape[1:] != shapes[name]:
                raise ValueError(
                    f"the state that was loaded has shape {tuple(value.shape[1:])} for {name!r}, "
                    f"which has shape {tuple(shapes[name])}"
                )
        self._loaded = False

    def capturable(self) -> bool:
        """With "ema" yes; the ring of "ma" is written to a place that Python counts."""
        return self.kind == "ema"

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop, where every call counts as one step."""
        self.filter_gradients(0, OneNetwork(model))


def _are_finite(gradients: Sequence[Tensor]) -> _Rows:
    """Which networks have finite gradients (S,); None on the CPU where all have.

    On a GPU the answer stays there: to wait for it would stop the queue at every step.
    """
    device = gradients[0].device
    # a finite sum has finite terms; one that is not may also have overflowed
    if device.type == "cpu" and math.isfinite(sum(float(own.sum()) for own in gradients)):
        return None
    largest = [
        gradient.reshape(len(gradient), -1).abs().amax(1).to(device)
        for gradient in gradients
        if gradient.numel()
    ]
    if not largest:
        return None
    finite = torch.stack(largest).isfinite().all(0)
    return None if device.type == "cpu" and bool(finite.all()) else finite


def _by_row(rows: Tensor, like: Tensor) -> Tensor:
    """A value for each network, to go with tensors (S, ...)."""
    return rows.to(like.device).view(-1, *[1] * (like.ndim - 1))


def _counts(count: int | Tensor, number: int) -> list[int]:
    """The steps that each network has taken, also from a state that had one number for all."""
    if isinstance(count, Tensor):
        return [int(own) for own in count.tolist()]
    return [count] * number
