"""The loss and accuracy of several networks at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from grokscope.training.objective import Objective


class StackedObjective:
    """What S networks minimize together: the sum of their losses, which gives each its gradient.

    Args:
        objective: the loss of one network.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over networks of each one's loss of outputs (S, n, ...), a scalar."""
        loss = self.objective.loss
        if callable(loss):
            return vmap(loss)(outputs, targets).sum()
        # Ours are means over examples, of which every network has as many.
        return len(outputs) * self.objective(outputs.flatten(0, 1), targets.flatten(0, 1))

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Which outputs are right (S, n), for labels (S, n) or one-hot targets (S, n, k)."""
        if outputs.ndim == 3 and outputs.shape[2] > 1:
            labels = targets.argmax(2) if targets.ndim == 3 else targets
            return outputs.argmax(2) == labels
        score, sign = outputs.flatten(1), targets.flatten(1)
        between = torch.zeros_like(score[:, :1])
        if self.objective.loss == "mse":  # labels 0 and 1, or -1 and 1
            between = 0.5 * (~(sign < 0).any(1, keepdim=True)).to(score)
        return (score > between) == (sign > 0)
