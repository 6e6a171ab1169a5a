"""Norms of a network's parameters."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_model
from grokscope.measures.magnitudes import norms, wide
from grokscope.measures.precision import without_autocast


@checked_arguments
@without_autocast
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
    check_model(model)
    buffers = weights_in_buffers(model)
    if buffers:
        numbers = sum(buffer.numel() for buffer in buffers.values())
        warnings.warn(
            f"model keeps {numbers} numbers in {len(buffers)} floating-point buffers, more than in "
            "its parameters, and these are left out: a converted model has its weights there; "
            "make them parameters",
            RuntimeWarning,
            stacklevel=2,
        )
    return {name: norms(_as_vector(p)) for name, p in model.named_parameters()}


def weights_in_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point buffers of a model by name, where they hold more than its parameters.

    Running statistics of a normalization are none of them.
    """
    found = {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        if not hasattr(module, "running_mean")
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
    size = sum(buffer.numel() for buffer in found.values())
    return found if size > sum(p.numel() for p in model.parameters()) else {}


def _as_vector(parameter: nn.Parameter) -> Tensor:
    """Its numbers as one real vector in float32 or wider; of a sharded one, all of them."""
    tensor = parameter.detach()
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return wide(tensor.flatten())
