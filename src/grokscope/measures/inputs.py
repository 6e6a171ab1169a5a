"""Checks on what every measure receives, so that a mistake is named where it was made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Model = nn.Module | Callable[[Tensor], Tensor]


def check_batch(x: Tensor, name: str = "x") -> None:
    """Raise unless ``x`` is a non-empty, finite tensor with a batch axis and a feature axis."""
    check_batch_shape(x, name)
    if x.is_floating_point() and not _is_finite(x):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{name} holds NaN or infinity: the first such example is {name}[{bad}]")


def _is_finite(x: Tensor) -> bool:
    # One bad number makes the sum bad, at a tenth of the price; only a bad sum needs a closer look.
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def check_batch_shape(x: Tensor, name: str = "x") -> None:
    """Raise unless ``x`` is a non-empty tensor with a batch axis and a feature axis."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor: got {type(x).__name__}")
    if x.ndim < 2:
        raise ValueError(
            f"{name} needs a batch axis: got shape {tuple(x.shape)}; pass {name}.unsqueeze(0)"
        )
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: got shape {tuple(x.shape)}; pass at least one example")


def check_outputs(outputs: Tensor, num_examples: int) -> Tensor:
    """The model's outputs as (n, k), k = 1 for a scalar output; raise if they are not that."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"model must return a tensor of shape (n, k) or (n,): got {type(outputs).__name__}; "
            "wrap it in a function that picks the tensor to study"
        )
    if outputs.ndim not in (1, 2) or outputs.shape[0] != num_examples:
        raise ValueError(
            f"model must map a batch of {num_examples} examples to outputs of shape "
            f"({num_examples}, k) or ({num_examples},): got {tuple(outputs.shape)}; wrap it in a "
            "function that flattens or picks the outputs to study"
        )
    return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs


def check_differentiable(x: Tensor, name: str = "x") -> None:
    """Raise unless ``x`` is of a type that has derivatives."""
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be floating point to differentiate by it: got {x.dtype}; pass "
            f"{name}.float(), or for a model of tokens its embeddings and a function of them"
        )


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise unless ``chunk_size`` is None or a positive integer."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be a positive integer or None: got {chunk_size}")


def check_not_batch_dependent(model: Model) -> None:
    """Raise where an example's output depends on the rest of the batch or on chance.

    BatchNorm in training mode, or without running statistics in any mode, mixes the examples of a
    batch and dropout draws anew at each call: in either case a per-example derivative has no
    meaning.
    """
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if norm and module.running_mean is None:
            raise ValueError(
                f"model has {type(module).__name__} without running statistics at "
                f"{name or 'the top'!r}: an example's output then depends on the rest of its batch "
                "even in eval mode; build it with track_running_stats=True"
            )
        if not module.training:
            continue
        draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        # recurrent and attention layers hold their dropout as a number
        draws |= isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
        draws |= isinstance(module, nn.RReLU)
        if norm or draws:
            raise ValueError(
                f"model has {type(module).__name__} in training mode at {name or 'the top'!r}: "
                "an example's output then depends on "
                f"{'the rest of its batch' if norm else 'chance'}; call model.eval() first"
            )
