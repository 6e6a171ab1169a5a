"""OrthoGrad on several networks at once."""

from __future__ import annotations

from grokscope.methods.orthograd import OrthoGrad, orthogonal_gradient
from grokscope.methods.stacked.base import StackedMethod
from grokscope.methods.stacked.network import StackedNetwork


class StackedOrthoGrad(StackedMethod[OrthoGrad]):
    """Takes from each network's gradients their part along its parameters; see ``OrthoGrad``."""

    def filter_gradients(self, step: int, network: StackedNetwork) -> None:
        """Change the gradients in place."""
        strength = self.methods[0].strength
        if strength == 0:
            return
        for _, parameter, gradient in network.gradients():
            gradient.copy_(orthogonal_gradient(parameter, gradient, strength, batch_dims=1))
