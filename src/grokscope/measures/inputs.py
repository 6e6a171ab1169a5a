"""Checks on what every measure receives, so that a mistake is named where it was made."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from grokscope.measures.batches import Batch, Key, batch_size, leaf_name, leaves
from grokscope.measures.guard import modules_within
from grokscope.measures.view import Model, output_tensor

NO_GRADIENT = (
    "model's outputs carry no gradient to x: it runs under torch.no_grad, detaches on the way or "
    "returns a constant; pass a differentiable model"
)


def check_batch(x: Batch, name: str = "x") -> None:
    """Raise unless ``x`` is a non-empty, finite batch with a batch axis.

    A tensor alone needs a feature axis besides. In a batch of several tensors infinity may stand,
    as in an additive attention mask; NaN may not.
    """
    check_batch_shape(x, name)
    check_numbers(x, name)


def check_numbers(x: Batch, name: str = "x") -> None:
    """Raise where a batch of any shape holds NaN, or as one tensor infinity, or no numbers."""
    for key, leaf in leaves(x, name).items():
        _refuse_layout(leaf, key, name)
        if leaf.is_floating_point() and not _is_finite(leaf):
            _refuse_non_finite(leaf, key, name)


def check_features(x: Tensor, name: str) -> None:
    """Raise unless ``x`` is a non-empty, finite batch of real features."""
    check_batch(x, name)
    if x.is_complex():
        raise TypeError(f"{name} must be real: got {x.dtype}; pass torch.view_as_real({name})")


def check_finite(leaf: Tensor, key: Key, name: str = "x") -> None:
    """Raise unless the tensor that derivatives are taken by is finite."""
    if key is not None and not _is_finite(leaf):
        _refuse_non_finite(leaf, key, name, infinity=True)


def _refuse_layout(leaf: Tensor, key: Key, name: str) -> None:
    """Raise where a tensor has no numbers, or no rows that examples could be picked from."""
    if leaf.is_nested or leaf.layout != torch.strided:
        kind = "nested" if leaf.is_nested else f"of layout {leaf.layout}"
        fix = "to_padded_tensor(0.0) with a mask" if leaf.is_nested else "to_dense()"
        spelled = leaf_name(key, name)
        raise ValueError(f"{spelled} must be a dense tensor: got one {kind}; pass {spelled}.{fix}")
    if leaf.is_meta:
        raise ValueError(f"{leaf_name(key, name)} is on the meta device, without numbers")


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
    for key, leaf in leaves(x, name).items():
        _refuse_layout(leaf, key, name)
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
    if not outputs.is_floating_point():
        fix = "pick its real part" if outputs.is_complex() else "return the scores, not the classes"
        raise TypeError(
            f"model must return real floating-point outputs: got {outputs.dtype}; {fix} with "
            "gs.View(model, lambda m, x: ...)"
        )
    if outputs.ndim not in (1, 2) or outputs.shape[0] != num_examples:
        raise ValueError(
            f"model must map a batch of {num_examples} examples to outputs of shape "
            f"({num_examples}, k) or ({num_examples},): got {tuple(outputs.shape)}; flatten or "
            "pick the outputs to study with gs.View(model, lambda m, x: ...)"
        )
    if outputs.numel() == 0:
        raise ValueError(f"model must return one output or more: got {tuple(outputs.shape)}")
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
    if chunk_size is not None:
        check_count("chunk_size", chunk_size, fix="or None for all at once")


def check_count(name: str, value: object, least: int = 1, fix: str = "") -> None:
    """Raise unless ``value`` is an integer of at least ``least``."""
    number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not number or int(cast(int, value)) < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        error: type[Exception] = ValueError if isinstance(value, numbers.Real) else TypeError
        raise error(f"{name} must be {kind}{', ' + fix if fix else ''}: got {value!r}")


def generator_or_fresh(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or for None a new one seeded by the operating system."""
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return generator


def check_number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf
) -> None:
    """Raise unless ``value`` is a finite number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Tensor):
        raise TypeError(f"{name} must be a number: got {type(value).__name__}")
    if not (math.isfinite(value) and least <= float(value) <= most):
        bounds = {
            (False, False): "finite",
            (True, False): f"a finite number of at least {least:g}",
            (False, True): f"a finite number of at most {most:g}",
            (True, True): f"between {least:g} and {most:g}",
        }[math.isfinite(least), math.isfinite(most)]
        raise ValueError(f"{name} must be {bounds}: got {value}")


def class_labels(y: Tensor) -> Tensor:
    """Labels that index: integers of any type, and booleans, as int64; others as they are.

    Example:
        >>> class_labels(torch.tensor([True, False]))
        tensor([1, 0])
    """
    return y if y.is_floating_point() or y.is_complex() else y.long()


def check_model(model: object) -> None:
    """Raise unless ``model`` can be called on a batch and has all of its parameters."""
    if not callable(model) or isinstance(model, type):
        got = "a class, not an instance of it" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be an nn.Module or a function of a batch: got {got}")
    for root in modules_within(model):
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            if is_lazy(tensor):
                raise ValueError(
                    f"model has no {name!r} yet, a parameter of a lazy layer: run the model once "
                    "on a batch first"
                )
            if tensor.is_meta:
                raise ValueError(
                    f"model has {name!r} on the meta device, without numbers: load its weights, "
                    "as with model.to_empty(device=...) and load_state_dict"
                )


def check_not_scripted(model: nn.Module) -> None:
    """Raise where a module is compiled to TorchScript, whose layers cannot be watched."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"model has a ScriptModule at {name or 'the top'!r}, whose layers cannot be "
                "watched: pass the module that it was scripted from"
            )


def check_not_sharded(model: nn.Module, fix: str) -> None:
    """Raise where parameters are distributed over processes, as by ``fully_shard``."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"model's parameter {name!r} is distributed over processes, as fully_shard does: "
                f"{fix}"
            )


def check_not_batch_dependent(model: Model) -> None:
    """Raise where an example's output depends on the rest of the batch or on chance.

    BatchNorm in training mode, or without running statistics in any mode, mixes the examples of a
    batch and dropout draws anew at each call: in either case a per-example derivative has no
    meaning. What a function closes over is looked at too.
    """
    check_model(model)
    for root in modules_within(model):
        for name, module in root.named_modules():
            _check_alone(name or "the top", module)


def _check_alone(name: str, module: nn.Module) -> None:
    kind = type(module).__name__
    norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    if norm and module.running_mean is None:
        raise ValueError(
            f"model has {kind} without running statistics at {name!r}: an example's output then "
            "depends on the rest of its batch even in eval mode; build it with "
            "track_running_stats=True"
        )
    if not module.training:
        return
    draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    # recurrent and attention layers hold their dropout as a number
    draws |= isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
    draws |= isinstance(module, nn.RReLU)
    if norm or draws:
        raise ValueError(
            f"model has {kind} in training mode at {name!r}: an example's output then depends on "
            f"{'the rest of its batch' if norm else 'chance'}; call model.eval() first"
        )


@contextmanager
def explained_refusals() -> Iterator[None]:
    """Say what cannot be differentiated, and what to do, where PyTorch's error does not."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if "checkpoint" in str(error) and "reentrant" in str(error):
            raise ValueError(
                "model uses reentrant checkpointing, of which PyTorch can take no derivatives by "
                "chosen tensors: pass use_reentrant=False to torch.utils.checkpoint, or for a "
                "Hugging Face model gradient_checkpointing_disable()"
            ) from error
        if "Inference tensors" in str(error):
            raise ValueError(
                "model holds tensors that were made under torch.inference_mode(), of which PyTorch "
                "takes no derivatives: make or load it outside, or pass copy.deepcopy(model)"
            ) from error
        raise
