"""OrthoGrad: take from each gradient its part along the weights.

Prieto, Barsbey, Mediano & Birdal (2025), "Grokking at the Edge of Numerical Stability",
arXiv:2501.04697. Once the training data are fitted, the gradient of cross-entropy points along
the weights: growing them lowers the loss and changes no decision. For each parameter tensor w
with gradient g the optimizer is given

    g' = (g - strength <w, g> / <w, w> w),   scaled to the length of g.

The scaling is in the code of the paper's authors. Gradients of half precision are treated in
float32. Cost: some fifteen passes over the parameters a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_number
from grokscope.measures.magnitudes import power_of_two, wide
from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, OneNetwork


@checked_arguments
def orthogonal_gradient(
    weight: Float[Tensor, " *p"],
    gradient: Float[Tensor, " *p"],
    strength: float = 1.0,
    *,
    batch_dims: int = 0,
) -> Float[Tensor, " *p"]:
    """The gradient without its part along the weight, at its length.

    It is 0 where nothing remains but rounding: where the two are parallel, as they are for a
    parameter of one element. Where the weight is 0 it is the gradient as it is.

    Args:
        weight: a parameter.
        gradient: its gradient.
        strength: how much of the part along the weight is taken away.
        batch_dims: how many leading axes count networks stacked on each other, each of which is
            treated alone.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.orthogonal_gradient(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0]))
        tensor([0., 5.])
    """
    check_number("strength", strength, least=0, most=1)
    if not 0 <= batch_dims <= gradient.ndim:
        raise ValueError(f"batch_dims must be from 0 to {gradient.ndim}: got {batch_dims}")
    if gradient.numel() == 0:
        return gradient.clone()
    lead = gradient.shape[:batch_dims]
    w, g = wide(weight.detach()).reshape(*lead, -1), wide(gradient.detach()).reshape(*lead, -1)
    (found,) = _orthogonal([w], [g], strength)
    return found.reshape(gradient.shape).to(gradient.dtype)


def _orthogonal(
    weights: list[Float[Tensor, "*s _p"]], gradients: list[Float[Tensor, "*s _p"]], strength: float
) -> list[Float[Tensor, "*s _p"]]:
    """The same of the rows of several parameters, of one device and precision.

    One call serves all of them where there is one for lists, and what is one number a row is
    calculated for all at once: a call costs as much as the sum of a thousand numbers.
    """
    # Only directions matter until the end: scaled by powers of two, no square under- or overflows,
    # as of the gradients that a GradScaler has multiplied by 65,536.
    w, _ = _all_scaled(weights)
    g, sizes = _all_scaled(gradients)
    square, length = _lengths(w).square(), _lengths(g)
    along = torch.stack([(own * other).sum(-1) for own, other in zip(w, g, strict=True)])
    share = strength * (along / square).nan_to_num(0)  # 0 / 0 where the weight is 0
    torch._foreach_addcmul_(g, w, _columns(-share))  # what remains of it
    left = _lengths(g)
    # Of parallel vectors, two to ten million long, 1.5 eps remain at most; 8 leave room.
    is_rounding = left <= 8 * torch.finfo(left.dtype).eps * length
    torch._foreach_mul_(g, _columns((length / left).masked_fill(is_rounding, 0)))
    torch._foreach_mul_(g, _columns(sizes))
    return g


def _all_scaled(vectors: list[Tensor]) -> tuple[list[Tensor], Float[Tensor, " l *s"]]:
    """What `scaled` makes of each of these."""
    sizes = power_of_two(torch.stack([own.abs().amax(-1) for own in vectors]))
    return list(torch._foreach_div(vectors, _columns(sizes))), sizes


def _lengths(vectors: Sequence[Tensor]) -> Float[Tensor, " l *s"]:
    return torch.stack([torch.linalg.vector_norm(own, dim=-1) for own in vectors])


def _columns(values: Float[Tensor, " l *s"]) -> list[Float[Tensor, "*s 1"]]:
    """The values of each parameter, to be multiplied with its rows."""
    return list(values.unsqueeze(-1).unbind())


class OrthoGrad(Method):
    """Takes from the gradient of each parameter tensor its part along the parameter.

    Works with any optimizer. In one's own loop call it with the model between ``backward`` and
    the optimizer's step. `stablemax_cross_entropy` is the paper's other remedy; the two combine.

    Args:
        strength: how much of that part is taken away: 1 all of it; 0 leaves training as it is,
            bit for bit.

    Raises:
        ValueError: if ``strength`` is not between 0 and 1.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> orthograd = gs.OrthoGrad()
        >>> torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> orthograd(model)  # and then optimizer.step()
    """

    name: ClassVar[str] = "orthograd"
    stays_in_span: ClassVar[bool] = True

    @checked_arguments
    def __init__(self, strength: float = 1.0) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be between 0 and 1: got {strength}")
        self.strength = strength

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Change the gradients in place."""
        if self.strength == 0:
            return
        alike: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for _, parameter, gradient in networks.gradients():
            if gradient.numel():
                alike.setdefault((gradient.device, gradient.dtype), []).append(
                    (parameter, gradient)
                )
        for pairs in alike.values():
            weights = [wide(parameter).reshape(len(parameter), -1) for parameter, _ in pairs]
            gradients = [wide(gradient).reshape(len(gradient), -1) for _, gradient in pairs]
            found = _orthogonal(weights, gradients, self.strength)
            torch._foreach_copy_(
                [gradient for _, gradient in pairs],
                [own.view_as(gradient) for own, (_, gradient) in zip(found, pairs, strict=True)],
            )

    def capturable(self) -> bool:
        """Yes: nothing comes from Python."""
        return True

    def __call__(self, model: nn.Module) -> None:
        """The same in one's own loop."""
        self.filter_gradients(0, OneNetwork(model))
