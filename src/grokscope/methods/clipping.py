"""Gradient clipping by the norm of all gradients, as ``torch.nn.utils.clip_grad_norm_`` does it.

With g the gradients of all parameters of a network as one vector, they become

    g * min(1, max_norm / (||g|| + 1e-6)).

As a method it acts on each network by itself, also where many are trained as one. It belongs last
in a list of methods, where it sees what the others made of the gradients.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from grokscope.arguments import checked_arguments
from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, OneNetwork


class GradientClipping(Method):
    """Scales the gradients down where their norm exceeds a bound.

    In one's own loop call it with the model between ``backward`` and the optimizer's step.

    Args:
        max_norm: the largest norm; one that no gradient exceeds leaves training as it is, bit for
            bit.

    Raises:
        ValueError: if ``max_norm`` is not positive.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> gs.GradientClipping(0.1)(model)  # and then optimizer.step()
        >>> bool(torch.cat([p.grad.flatten() for p in model.parameters()]).norm() < 0.1)
        True
    """

    name: ClassVar[str] = "clipping"
    stays_in_span: ClassVar[bool] = True

    @checked_arguments
    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm must be positive: got {max_norm}")
        self.max_norm = max_norm

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Scale the gradients of each network."""
        gradients = [gradient for _, _, gradient in networks.gradients()]
        if not gradients:
            return
        # norms of norms: a sum of squares over all parameters would overflow sooner
        # a parameter may be a single number, its gradient then (S,)
        rows = [gradient.reshape(len(gradient), -1) for gradient in gradients]
        norms = [torch.linalg.vector_norm(row, dim=1) for row in rows]
        whole = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factor = (self.max_norm / (whole + 1e-6)).clamp_max(1)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))

    def capturable(self) -> bool:
        """Yes: nothing is decided in Python."""
        return True

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop."""
        self.filter_gradients(0, OneNetwork(model))
