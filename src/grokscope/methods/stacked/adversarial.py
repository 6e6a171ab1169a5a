"""Adversarial training of several networks at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grokscope.methods.adversarial import AdversarialTraining
from grokscope.methods.stacked.base import StackedLoss, StackedMethod, normal_numbers
from grokscope.methods.stacked.network import StackedNetwork, rows_of


class StackedAdversarialTraining(StackedMethod[AdversarialTraining]):
    """Perturbs each network's inputs as far as its own accuracy says; see the method alone."""

    def __init__(self, methods: Sequence[AdversarialTraining]) -> None:
        super().__init__(methods)
        self._accuracy = torch.stack([method.state_dict()["accuracy"] for method in methods])
        self._seen: tuple[StackedLoss, Tensor] | None = None

    def perturb(
        self, step: int, network: StackedNetwork, x: Tensor, y: Tensor, loss: StackedLoss
    ) -> Tensor:
        """The inputs to train on at this step."""
        method = self.methods[0]
        if method.size == 0 and method.floor == 0:
            return x
        self._seen = loss, y
        size = method.size_at(self._accuracy.to(x)).view(-1, *[1] * (x.ndim - 1))
        if method.kind == "noise":
            generators = [own.generator for own in self.methods]
            return x + normal_numbers(generators, x.shape[1:], x.device, x.dtype) * size
        leaf = x.detach().clone().requires_grad_()
        with network.in_mode(training=False), torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(network(leaf), y), leaf)
        return x + gradient.sign() * size

    def penalty(self, step: int, network: StackedNetwork, x: Tensor, outputs: Tensor) -> None:
        """Nothing; the accuracies of ``outputs`` are noted for the next step."""
        if self._seen is not None:
            loss, y = self._seen
            self._accuracy = loss.correct(outputs.detach(), y).to(torch.float32).mean(1)
            self._seen = None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        super().keep(rows)
        self._accuracy = rows_of(self._accuracy, rows)

    def write_back(self, row: int) -> None:
        """Put a network's accuracy into its own method."""
        method = self.methods[row]
        method.load_state_dict({**method.state_dict(), "accuracy": self._accuracy[row]})
