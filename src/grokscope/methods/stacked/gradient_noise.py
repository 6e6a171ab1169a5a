"""Gradient noise on several networks at once."""

from __future__ import annotations

from grokscope.methods.gradient_noise import GradientNoise, noise_deviation
from grokscope.methods.stacked.base import StackedMethod, normal_numbers
from grokscope.methods.stacked.network import StackedNetwork


class StackedGradientNoise(StackedMethod[GradientNoise]):
    """Adds to each network's gradients the noise of its own generator; see ``GradientNoise``."""

    def filter_gradients(self, step: int, network: StackedNetwork) -> None:
        """Add the noise of a step."""
        method = self.methods[0]
        if method.variance == 0:
            return
        deviation = noise_deviation(step, method.variance, method.decay)
        generators = [own.generator for own in self.methods]
        for _, _, gradient in network.gradients():
            noise = normal_numbers(generators, gradient.shape[1:], gradient.device, gradient.dtype)
            gradient.add_(noise, alpha=deviation)
