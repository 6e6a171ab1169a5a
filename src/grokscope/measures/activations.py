"""What each layer of a network computes for a batch.

Cost: one forward pass, and memory for the activations asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.measures.guard import undisturbed, without_wrappers
from grokscope.measures.inputs import (
    Model,
    check_batch,
    check_chunk_size,
    check_not_batch_dependent,
)

# Layers that only pass on or reshape what an earlier layer computed.
_PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def layer_activations(
    model: Model,
    x: Tensor,
    layers: Sequence[str] | None = None,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """The outputs of a model's layers for a batch, flattened to (n, features) and detached.

    Args:
        model: any ``nn.Module``; its mode, buffers, hooks, gradients and the global random state
            are left as they were, also when it is in training mode.
        x: (n, ...).
        layers: names as in ``model.named_modules()``, "" for the model's own output; None for
            every module without children, dropout, flatten and identity left out.
        chunk_size: examples passed through at once; None for all. Not for a model whose outputs
            depend on the rest of the batch.

    Returns:
        Activations in the order in which the layers ran. A layer called more than once appears as
        "name", "name#2", ...; one whose output is not a tensor over the batch is left out, or an
        error where it was asked for by name.

    Raises:
        ValueError: for a name the model has not got, or that never ran.
        TypeError: if ``model`` is not a module.

    Example:
        >>> import grokscope as gs, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
        >>> {name: h.shape for name, h in gs.layer_activations(net, torch.ones(5, 1, 4, 4)).items()}
        {'0': torch.Size([5, 8]), '1': torch.Size([5, 8])}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module: got {type(model).__name__}")
    check_batch(x)
    check_chunk_size(chunk_size)
    if chunk_size is not None:
        check_not_batch_dependent(model)
    plain: nn.Module = without_wrappers(model)
    chosen = _chosen_modules(plain, layers)
    # hooks fire inside the guard also where the model is compiled
    with undisturbed(plain):
        parts = [
            _activations(plain, part, chosen, strict=layers is not None)
            for part in x.split(chunk_size or len(x))
        ]
    missing = [name for name in chosen if name not in parts[0]]
    if layers is not None and missing:
        raise ValueError(f"layers names {missing[0]!r}, which did not run in the forward pass")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _chosen_modules(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if layers is None:
        return {
            name: module
            for name, module in modules.items()
            if not any(module.children()) and not isinstance(module, _PASSING)
        }
    if isinstance(layers, str):
        raise TypeError(
            f"layers must be a list of names: got the string {layers!r}; pass [{layers!r}]"
        )
    for name in layers:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3, cutoff=0.3)
            raise ValueError(
                f"layers names {name!r}, which the model has not got; "
                f"{'nearest: ' + ', '.join(close) if close else 'see model.named_modules()'}"
            )
    return {name: modules[name] for name in layers}


def _activations(
    model: nn.Module, x: Tensor, chosen: dict[str, nn.Module], strict: bool
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(x):
                if strict:
                    raise ValueError(
                        f"layers names {name!r}, whose output is not a tensor over the batch of "
                        f"{len(x)}: got {type(output).__name__}"
                    )
                return
            calls = sum(key.split("#")[0] == name for key in found)
            key = name if calls == 0 else f"{name}#{calls + 1}"
            # A copy, because a later in-place layer may overwrite what this one returned.
            found[key] = output.detach().reshape(len(output), -1).clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in chosen.items()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found
