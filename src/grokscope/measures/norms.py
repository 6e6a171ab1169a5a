"""Norms of a network's parameters."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def weight_norms(model: nn.Module) -> dict[str, Float[Tensor, ""]]:
    """The Euclidean norm of every parameter, by name.

    That of all parameters together, the measure ``weight_norm`` of the monitor, is the root of the
    sum of their squares. A weight that several modules share counts once.

    Args:
        model: the network; frozen parameters count too.

    Returns:
        Scalars by the names of ``model.named_parameters()``.

    Example:
        >>> import torch, grokscope as gs
        >>> norms = gs.weight_norms(gs.MLP(3, [4], 2, bias=False, seed=0))
        >>> list(norms)
        ['linear1.weight', 'linear2.weight']
    """
    return {name: parameter.detach().norm() for name, parameter in model.named_parameters()}
