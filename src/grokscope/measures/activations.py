"""What each layer of a network computes for a batch.

Cost: one forward pass, and memory for the activations asked for; a forward pass for each layer and
memory for one where they are streamed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, batch_size, chunks, rows
from grokscope.measures.company import another_count, few, refuse_company, tolerance
from grokscope.measures.guard import undisturbed, without_wrappers
from grokscope.measures.inputs import (
    Model,
    check_batch,
    check_chunk_size,
    check_count,
    check_model,
    check_not_batch_dependent,
    check_not_scripted,
)
from grokscope.measures.view import explained_call, to_give_away

# Layers that only pass on or reshape what an earlier layer computed.
_PASSING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
# A layer's name and which of its calls; what it returned, (c, features) of c examples, or in words
# where that is no tensor over them.
Call = tuple[str, int]
Outputs = dict[Call, Tensor | str]


@checked_arguments
def layer_activations(
    model: Model,
    x: Batch,
    layers: Sequence[str] | None = None,
    chunk_size: int | None = None,
    max_features: int | None = None,
) -> dict[str, Tensor]:
    """The outputs of a model's layers for a batch, flattened to (n, features) and detached.

    Args:
        model: any ``nn.Module``; its mode, buffers, hooks, gradients and the global random state
            are left as they were, also when it is in training mode. Of one that is compiled or
            distributed, the layers of the module inside.
        x: the batch: a tensor (n, ...), or a tuple, list or dictionary of tensors (see `View`).
        layers: names as in ``model.named_modules()``, "" for the model's own output; None for
            every module without children, dropout, flatten and identity left out.
        chunk_size: examples passed through at once; None for all. Not for a model whose outputs
            depend on the rest of the batch.
        max_features: of a layer with more features, keep this many, drawn at random and the same
            for every example and call; None for all.

    Returns:
        Activations in the order in which the layers ran. A layer called more than once appears as
        "name", "name#2", ...; one whose output is not a tensor over the batch is left out, or an
        error where it was asked for by name.

    Raises:
        ValueError: for a name the model has not got, or that never ran; for a model in evaluation
            mode whose activations change with the company of an example.
        TypeError: if ``model`` is not a module.

    Example:
        >>> import grokscope as gs, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
        >>> {name: h.shape for name, h in gs.layer_activations(net, torch.ones(5, 1, 4, 4)).items()}
        {'0': torch.Size([5, 8]), '1': torch.Size([5, 8])}
    """
    plain, chosen = _checked(model, x, layers, chunk_size, max_features)
    return _of_batch(plain, x, chosen, layers, chunk_size, max_features)


@checked_arguments
def stream_layer_activations(
    model: Model,
    x: Batch,
    layers: Sequence[str] | None = None,
    chunk_size: int | None = None,
    max_features: int | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The activations of one layer after the other, so that only one layer's are held at a time.

    Args:
        model: as for `layer_activations`.
        x: the batch.
        layers: names, as for `layer_activations`; they come in the order of this list.
        chunk_size: examples passed through at once; None for all.
        max_features: features kept of a layer, as for `layer_activations`.

    Yields:
        Name and activations (n, features).

    Raises:
        TypeError: as for `layer_activations`.
        ValueError: as for `layer_activations`.

    Example:
        >>> import grokscope as gs, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> [(n, h.shape[1]) for n, h in gs.stream_layer_activations(net, torch.ones(5, 3))]
        [('0', 4), ('1', 4)]
    """
    plain, chosen = _checked(model, x, layers, chunk_size, max_features)
    for name, module in chosen.items():
        asked = None if layers is None else [name]
        found = _of_batch(plain, x, {name: module}, asked, chunk_size, max_features)
        yield from found.items()


def _checked(
    model: Model,
    x: Batch,
    layers: Sequence[str] | None,
    chunk_size: int | None,
    max_features: int | None,
) -> tuple[nn.Module, dict[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module: got {type(model).__name__}")
    check_model(model)
    check_not_scripted(model)
    check_batch(x)
    check_chunk_size(chunk_size)
    if max_features is not None:
        check_count("max_features", max_features, fix="or None for all")
    if chunk_size is not None:
        check_not_batch_dependent(model)
    plain: nn.Module = without_wrappers(model)
    return plain, _chosen_modules(plain, layers)


def _of_batch(
    model: nn.Module,
    x: Batch,
    chosen: dict[str, nn.Module],
    layers: Sequence[str] | None,
    chunk_size: int | None,
    max_features: int | None,
) -> dict[str, Tensor]:
    n = batch_size(x)
    # Another number of examples shows which axis is the batch's: it follows that number, and is
    # not one that happens to be as long.
    index = few(n, another_count(min(n, chunk_size or n), chunk_size))
    # hooks fire inside the guard also where the model is compiled
    with undisturbed(model) as rewind, torch.no_grad():
        parts = []
        for part in chunks(x, chunk_size):
            parts.append(_activations(model, part, chosen, max_features))
            rewind()
        alone = _activations(model, rows(x, index), chosen, max_features) if n > 1 else {}
        if layers is not None:
            _check_over_batch([*parts, alone])
        found = _joined(parts, alone)
        missing = chosen.keys() - {name for name, _ in found}
        if layers is not None and missing:
            name = min(missing, key=list(chosen).index)
            raise ValueError(f"layers names {name!r}, which did not run in the forward pass")
        if not any(module.training for module in model.modules()):
            _compare(found, alone, index)
    named: dict[str, Tensor] = {}
    for name, number in found:
        calls = sum(key.split("#")[0] == name for key in named)
        named[name if calls == 0 else f"{name}#{calls + 1}"] = found[name, number]
    return named


def _check_over_batch(runs: list[Outputs]) -> None:
    for run in runs:
        for (name, _), output in run.items():
            if isinstance(output, str):
                raise ValueError(
                    f"layers names {name!r}, whose output is not a tensor over the batch, its "
                    f"first axis: got {output}"
                )


def _joined(parts: list[Outputs], alone: Outputs) -> dict[Call, Tensor]:
    """The outputs that are over the batch in every part, and over another number of examples."""
    found = {}
    for call in parts[0]:
        outputs = [part.get(call) for part in parts]
        tensors = [output for output in outputs if isinstance(output, Tensor)]
        if len(tensors) == len(parts) and not isinstance(alone.get(call), str):
            found[call] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    return found


def _compare(found: dict[Call, Tensor], alone: Outputs, index: list[int]) -> None:
    """Raise where a few examples' activations are others without the rest of the batch."""
    for call, activation in found.items():
        here, there = activation[index], alone.get(call)
        if not isinstance(there, Tensor) or here.shape != there.shape:
            continue
        if not here.is_floating_point():
            continue
        difference = (here - there).abs().amax(dim=1)
        wrong = (difference > tolerance(here) * there.abs().amax()).nonzero()
        if len(wrong):
            first = int(wrong[0])
            refuse_company("x", index[first], float(difference[first]), f"layer {call[0]!r}")


def _chosen_modules(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    if layers is None:
        return {
            name: module
            for name, module in modules.items()
            if not any(module.children()) and not isinstance(module, _PASSING)
        }
    # a compiled model lists its layers under the name that torch.compile gives the module inside
    layers = [name.replace("_orig_mod.", "") for name in layers]
    for name in layers:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3, cutoff=0.3)
            raise ValueError(
                f"layers names {name!r}, which the model has not got; "
                f"{'nearest: ' + ', '.join(close) if close else 'see model.named_modules()'}"
            )
    return {name: modules[name] for name in layers}


def _activations(
    model: nn.Module, x: Batch, chosen: dict[str, nn.Module], max_features: int | None
) -> Outputs:
    found: Outputs = {}
    n = batch_size(x)

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            call = name, sum(called == name for called, _ in found)
            if isinstance(output, Tensor) and output.ndim > 0 and len(output) == n:
                # A copy, because a later in-place layer may overwrite what this one returned.
                found[call] = _kept(output.detach().reshape(n, -1), max_features)
                return
            shape = f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
            found[call] = f"{type(output).__name__}{shape} for {n} examples"

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in chosen.items()]
    try:
        explained_call(model, to_give_away(model, x))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _kept(activation: Tensor, max_features: int | None) -> Tensor:
    """A copy of the activations, of some features where there are more."""
    width = activation.shape[1]
    if max_features is None or width <= max_features:
        return activation.clone()
    order = torch.randperm(width, generator=torch.Generator().manual_seed(0))
    return activation[:, order[:max_features].sort().values.to(activation.device)]
