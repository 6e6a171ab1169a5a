"""Gradient noise that fades: a plain baseline.

Neelakantan et al. (2015), "Adding Gradient Noise Improves Learning for Very Deep Networks",
arXiv:1511.06807: at step t (from 1) the gradient is given Gaussian noise of the variance

    variance / t^decay.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_count, check_number
from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, OneNetwork, normal_numbers


@checked_arguments
def noise_deviation(step: int, variance: float = 0.01, decay: float = 0.55) -> float:
    """The standard deviation of the noise at a step, counted from 1.

    Example:
        >>> import grokscope as gs
        >>> gs.noise_deviation(1, variance=0.25), gs.noise_deviation(16, variance=0.25, decay=0.5)
        (0.5, 0.25)
    """
    check_count("step", step)
    check_number("variance", variance, least=0)
    check_number("decay", decay, least=0)
    return _deviation(step, variance, decay)


def _deviation(step: int, variance: float, decay: float) -> float:
    return (variance / step**decay) ** 0.5


class GradientNoise(Method):
    """Adds fading Gaussian noise to the gradients.

    In one's own loop call it with the model between ``backward`` and the optimizer's step.

    Args:
        variance: of the noise at the first step; 0 leaves training as it is, bit for bit. The
            paper tries 0.01, 0.3 and 1.
        decay: power of the step by which the variance falls.
        seed: of the method's own generator; the global random state is not touched.

    Raises:
        ValueError: if an argument is negative or not finite.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> noise = gs.GradientNoise(variance=0.01)
        >>> torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> noise(model)  # and then optimizer.step()
    """

    name: ClassVar[str] = "gradient_noise"
    always_kept: ClassVar[tuple[str, ...]] = ("generator", "steps")

    @checked_arguments
    def __init__(self, variance: float = 0.01, decay: float = 0.55, seed: int = 0) -> None:
        for name, value in (("variance", variance), ("decay", decay)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or positive, and finite: got {value}")
        self.variance = variance
        self.decay = decay
        self.generators = [torch.Generator().manual_seed(seed)]
        self.state = {"steps": 0}

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Add the noise of a step to the gradients."""
        if self.variance == 0:
            return
        gradients = list(networks.named_gradients().values())
        noise = [
            networks.from_host(step, partial(self._noise, own.shape[1:], own.device, own.dtype))
            for own in gradients
        ]
        # all parameters in one call: on small networks the calls are what costs
        torch._foreach_add_(gradients, noise)

    def _noise(
        self, shape: torch.Size, device: torch.device, dtype: torch.dtype, step: int
    ) -> Float[Tensor, " s *p"]:
        deviation = _deviation(step, self.variance, self.decay)
        return normal_numbers(self.generators, shape, device, dtype, deviation)

    def capturable(self) -> bool:
        """Yes: all noise comes through ``from_host``."""
        return True

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop, where every call counts as one step."""
        self.state["steps"] += 1
        self.filter_gradients(self.state["steps"], OneNetwork(model))
