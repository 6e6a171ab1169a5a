"""Checks on what every measure receives, so that a mistake is named where it was made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grokscope.measures.batches import Batch, Key, batch_size, leaf_name, leaves
from grokscope.measures.view import Model, output_tensor


def check_batch(x: Batch, name: str = "x") -> None:
    """Raise unless ``x`` is a non-empty, finite batch with a batch axis.

    A tensor alone needs a feature axis besides. In a batch of several tensors infinity may stand,
    as in an additive attention mask; NaN may not.
    """
    check_batch_shape(x, name)
    for key, leaf in leaves(x, name).items():
        if leaf.is_floating_point() and not _is_finite(leaf):
            _refuse_non_finite(leaf, key, name)


def check_finite(leaf: Tensor, key: Key, name: str = "x") -> None:
    """Raise unless the tensor that derivatives are taken by is finite."""
    if key is not None and not _is_finite(leaf):
        _refuse_non_finite(leaf, key, name, infinity=True)


def _refuse_non_finite(leaf: Tensor, key: Key, name: str, infinity: bool = False) -> None:
    bad = ~torch.isfinite(leaf) if infinity or key is None else torch.isnan(leaf)
    if bool(bad.any()):
        first = int(bad.flatten(1).any(1).nonzero()[0]) if leaf.ndim > 1 else int(bad.nonzero()[0])
        spelled = leaf_name(key, name)
        raise ValueError(
            f"{spelled} holds NaN or infinity: the first such example is {spelled}[{first}]"
        )


def _is_finite(x: Tensor) -> bool:
    # One bad number makes the sum bad, at a tenth of the price; only a bad sum needs a closer look.
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def check_batch_shape(x: Batch, name: str = "x") -> None:
    """Raise unless ``x`` is a non-empty batch; a tensor alone needs a feature axis besides."""
    if isinstance(x, Tensor) and x.ndim < 2:
        raise ValueError(
            f"{name} needs a batch axis: got shape {tuple(x.shape)}; pass {name}.unsqueeze(0)"
        )
    batch_size(x, name)
    for key, leaf in leaves(x, name).items():
        if leaf.numel() == 0:
            raise ValueError(
                f"{leaf_name(key, name)} is empty: got shape {tuple(leaf.shape)}; pass at least "
                "one example"
            )


def check_outputs(outputs: Any, num_examples: int) -> Tensor:
    """The model's outputs as (n, k), k = 1 for a scalar output; raise if they are not that."""
    outputs = output_tensor(outputs)
    if outputs.ndim not in (1, 2) or outputs.shape[0] != num_examples:
        raise ValueError(
            f"model must map a batch of {num_examples} examples to outputs of shape "
            f"({num_examples}, k) or ({num_examples},): got {tuple(outputs.shape)}; flatten or "
            "pick the outputs to study with gs.View(model, lambda m, x: ...)"
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
