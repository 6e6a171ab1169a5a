"""The gradient of the Jacobian norm by a difference of outputs, without double backward.

With h = A^T u held constant, the derivative of ||A^T u||^2 by the parameters is that of

    2 u . A h = 2 ||h|| u . (f(x + e h / ||h||) - f(x)) / e   as e -> 0.

One backward pass to the input gives h, one more ordinary forward and backward pass the rest. It
takes first derivatives only and so works where double backward is refused: fused and flash
attention, `torch.compile`, checkpointing, custom kernels.

The step e balances the error of the difference, which grows with e, against rounding, which grows
as e shrinks: e = sqrt(precision) times the length of x, with the precision of the arithmetic, that
of autocast included. The relative error of the gradient is then about sqrt(precision), 1e-8 in
float64 and 1e-3 in float32 on smooth networks. A network with kinks gets another gradient from it
than the penalty's own: a kink between x and x + e h / ||h|| contributes its jump, which the
derivative at x does not see.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.measures.gradients import gradients_or_zeros


def difference_squared_norms(
    function: Callable[[Tensor], Tensor],
    leaf: Float[Tensor, " n *d"],
    outputs: Float[Tensor, "n k"],
    directions: Float[Tensor, "n r k"],
    coupled: bool = False,
) -> Float[Tensor, " n"]:
    """||u^T A||^2 summed over the r directions u, with the gradient of the difference above.

    The value is that of the derivative at x, so that only the gradient is a difference.

    Args:
        function: maps points (n, *d) to outputs (n, k).
        leaf: the inputs, which require gradients.
        outputs: ``function(leaf)``, with its graph, which is kept.
        directions: the vectors u.
        coupled: whether an output depends on other examples of the batch. All examples then move
            in proportion to their h, as one step of the batch, where else each moves by e.

    Cost: for each direction a backward pass to the input and a forward pass, which is
    differentiated by the parameters once.
    """
    x, norms = leaf.detach(), torch.zeros_like(outputs[:, 0])
    step = _step(x)
    for u in directions.unbind(1):
        # a first derivative only, on the graph that the training has: retained, as training needs
        # it
        (h,) = gradients_or_zeros(outputs, [leaf], u, retain_graph=True)
        squares = h.flatten(1).square().sum(1)
        length = squares.sqrt()
        if coupled:
            # behind BatchNorm an example's outputs move with the others' inputs: the batch moves as
            # one
            length = squares.mean().sqrt().expand_as(length)
        wide = (step / length.clamp_min(torch.finfo(h.dtype).tiny)).view(-1, *[1] * (h.ndim - 1))
        with torch.enable_grad():
            moved = function(x + wide * h)
            # 2 ||h|| u . (f(x + e h / ||h||) - f(x)) / e; h is held constant, as h = A^T u makes
            # the derivative of ||h||^2 that of 2 u . A h at fixed h
            along = (2 * u * (moved - outputs)).sum(1) * (length / step)
            # the value from the derivative, exact; the difference is zero in value and gives the
            # gradient
            norms = norms + squares + (along - along.detach())
    return norms


def _step(x: Tensor) -> Tensor:
    """The length e, one for all examples, from the root mean square length of the inputs."""
    kind = x.device.type
    half = torch.is_autocast_enabled(kind)
    precision = torch.finfo(torch.get_autocast_dtype(kind) if half else x.dtype).eps
    length = x.flatten(1).square().sum(1).mean().sqrt()
    return precision**0.5 * torch.where(length > 0, length, torch.ones_like(length))
