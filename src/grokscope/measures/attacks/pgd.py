"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083): an attack by the loss's slope.

    x <- P(x + a s),    s the steepest step for the cross-entropy at x,

with P the projection onto the ball, from a random point of it. Cost: a forward and a backward pass
to the input at each step, of the examples that are not yet misclassified.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from grokscope.measures.attacks.ball import Ball
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.inputs import NO_GRADIENT

# (points (m, *d), which examples they are (m,)) -> outputs (m, k)
Logits = Callable[[Tensor, Tensor], Tensor]
# (outputs (m, k), labels (m,)) -> what an attack drives up (m,)
Loss = Callable[[Tensor, Tensor], Tensor]


def pgd(
    logits: Logits,
    x: Float[Tensor, " n *d"],
    y: Int64[Tensor, " n"],
    ball: Ball,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, " n *d"]:
    """The first misclassified point on the way from each example; the example itself if none is.

    Args:
        logits: outputs at points, given which of the n examples they belong to.
        x: the examples.
        y: their classes.
        ball: what points are allowed.
        steps: how many; each has the length 2.5 eps / steps.
        generator: of the random start.
    """
    found, alive = x.clone(), torch.arange(len(x), device=x.device)
    point = ball.start(x, generator)
    for step in range(steps + 1):
        outputs, _, slope = outputs_and_slope(logits, point, y[alive], alive, cross_entropy)
        intact = outputs.argmax(1) == y[alive]
        found[alive[~intact]] = point[~intact]
        alive, point, slope = alive[intact], point[intact], slope[intact]
        if not len(alive) or step == steps:
            break
        point = ball.project(point + 2.5 * ball.eps / steps * ball.steepest(slope), x[alive])
    return found


def cross_entropy(outputs: Float[Tensor, "m k"], y: Int64[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The cross-entropy of each example."""
    return F.cross_entropy(outputs, y, reduction="none")


def outputs_and_slope(
    logits: Logits,
    points: Float[Tensor, " m *d"],
    y: Int64[Tensor, " m"],
    examples: Int64[Tensor, " m"],
    loss: Loss,
) -> tuple[Float[Tensor, "m k"], Float[Tensor, " m"], Float[Tensor, " m *d"]]:
    """The outputs at points, the losses there and their gradients with respect to the points."""
    leaf = points.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = logits(leaf, examples)
        if not outputs.requires_grad:
            raise ValueError(NO_GRADIENT)
        losses = loss(outputs, y)
        (slope,) = gradients_or_zeros(losses.sum(), [leaf])
    return outputs.detach(), losses.detach(), slope
