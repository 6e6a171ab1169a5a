"""Centroids and radii of a network's sub-networks: from the input up to each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, Key, leaf_at, rows, with_leaf
from grokscope.measures.centroid import power_radius
from grokscope.measures.company import Company, another_count, few
from grokscope.measures.guard import without_wrappers
from grokscope.measures.inputs import check_not_scripted
from grokscope.measures.local_map import differentiable_outputs, fresh_leaf, in_chunks

_REARRANGING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


@checked_arguments
def layer_centroids(
    model: nn.Module,
    x: Batch,
    layers: Sequence[str] | None = None,
    *,
    chunk_size: int | None = None,
) -> dict[str, Float[Tensor, " n *d"]]:
    """The centroid of every sub-network from the input to a layer's output.

    With f_l the network up to and with layer l, mu_l = (d f_l(x) / d x)^T 1, summed over all of the
    layer's outputs. The regions that the first l layers cut the input space into form a power
    diagram whose cells have these centroids (GrokAlign, arXiv:2506.12284, Theorems 12-13). A
    region changes with the activations, so the sub-networks that end in an activation are the
    paper's; those that end in a linear layer are the maps that the next activation folds. The
    last is the network itself, `centroids`.

    Cost: one forward pass and one backward pass for each layer, from that layer down.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        layers: names as in ``model.named_modules()``, in the order wanted. If None, in the order
            they run, all modules without children that the input reaches and that compute
            something (not Flatten, Dropout and the like).
        chunk_size: examples at a time; all of them if None.

    Returns:
        For each layer its centroids (n, *d). A module that runs more than once (shared weights)
        counts by its last run.

    Raises:
        TypeError: if ``model`` is no nn.Module.
        ValueError: as for `centroids`, or if a name in ``layers`` is not a module of the model,
            does not run, does not depend on x, or does not return one tensor.

    Example:
        >>> import torch, grokscope as gs
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = gs.layer_centroids(model, torch.ones(5, 3))
        >>> {name: tuple(c.shape) for name, c in found.items()}
        {'0': (5, 3), '1': (5, 3), '2': (5, 3)}
    """

    def centroid(_name: str, _totals: Tensor, gradient: Tensor, _leaf: Tensor) -> Tensor:
        return gradient

    return _by_layer(model, x, layers, chunk_size, centroid)


@checked_arguments
def layer_radii(
    model: nn.Module,
    x: Batch,
    layers: Sequence[str] | None = None,
    *,
    chunk_size: int | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """The radius of every sub-network from the input to a layer's output.

    With f_l = A x + b the network up to and with layer l on x's region and mu_l = A^T 1 its
    centroid, rad_l = ||mu_l||^2 + 2 1^T b, the square of a length and of either sign (see `radii`).
    Within a region of the layers before, the regions of layer l are a power diagram: x is in the
    one whose power distance ||x - mu_l||^2 - rad_l is least (GrokAlign, arXiv:2506.12284, Theorems
    12-13). That holds for the sub-networks that end in an activation with convex units, as ReLU.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        layers: as for `layer_centroids`.
        chunk_size: examples at a time; all of them if None.

    Returns:
        For each layer its radii (n,), in squared units of x.

    Raises:
        TypeError: if ``model`` is no nn.Module.
        ValueError: as for `layer_centroids`, or if a layer's outputs have not the batch first.

    Example:
        >>> import torch, grokscope as gs
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> {name: tuple(r.shape) for name, r in gs.layer_radii(model, torch.ones(5, 3)).items()}
        {'0': (5,), '1': (5,), '2': (5,)}
    """

    def radius(_name: str, totals: Tensor, gradient: Tensor, leaf: Tensor) -> Tensor:
        return power_radius(gradient.flatten(1), totals.detach(), leaf.detach().flatten(1))

    return _by_layer(model, x, layers, chunk_size, radius, of_examples=True)


def _by_layer(
    model: nn.Module,
    x: Batch,
    layers: Sequence[str] | None,
    chunk_size: int | None,
    measured: Callable[[str, Tensor, Tensor, Tensor], Tensor],
    of_examples: bool = False,
) -> dict[str, Tensor]:
    """``measured`` of (name, summed outputs (n,), their gradient by x, x) for every layer.

    With ``of_examples`` it must be given the sums of every example by itself.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, whose layers have names: got {type(model).__name__}"
        )
    check_not_scripted(model)
    model = without_wrappers(model)
    modules = dict(model.named_modules())
    if unknown := [name for name in layers or () if name not in modules]:
        raise ValueError(f"layers names no module of the model: {unknown}; there are {[*modules]}")
    wanted = _computing_leaves(modules) if layers is None else {n: modules[n] for n in layers}
    names: list[str] = []

    def measure(part: Batch, key: Key, company: Company | None, start: int) -> tuple[Tensor, ...]:
        leaf = fresh_leaf(leaf_at(part, key))
        given = with_leaf(part, key, leaf)
        outputs, totals = _summed_outputs(model, given, key, wanted)
        if company is not None:
            company.check(outputs, start)
        found = _gradients(totals, leaf)
        names[:] = found if layers is None else layers
        if missing := [name for name in names if name not in found]:
            raise ValueError(
                f"layers asks for modules without a centroid: {missing} do not run, return no "
                "single tensor or do not depend on x"
            )
        if of_examples:
            _check_sums(totals, names, len(leaf))
            if start == 0 and len(leaf) > 1:
                index = few(len(leaf), another_count(len(leaf), chunk_size))
                other = _summed_outputs(model, rows(given, index), key, wanted)[1]
                _check_sums(other, names, len(index))
        return tuple(measured(name, totals[name], found[name], leaf) for name in names)

    parts = in_chunks(model, x, chunk_size, measure)
    return dict(zip(names, parts, strict=True))


def _check_sums(sums: dict[str, Tensor], names: Sequence[str], n: int) -> None:
    """Raise unless the outputs of every layer have ``n`` examples on their first axis."""
    for name in names:
        if len(sums.get(name, range(n))) != n:
            raise ValueError(
                f"layers asks for {name!r}, whose outputs have {len(sums[name])} entries on the "
                f"first axis for {n} examples: a radius is of an example"
            )


def _computing_leaves(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in modules.items()
        if not any(module.children()) and not isinstance(module, _REARRANGING)
    }


def _summed_outputs(
    model: nn.Module, x: Batch, key: Key, wanted: dict[str, nn.Module]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs, and each wanted module's summed along all axes but the first, in their order."""
    sums: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                # Summed at once: an in-place activation may overwrite this output.
                sums.pop(name, None)
                sums[name] = output.flatten(1).sum(1) if output.ndim > 1 else output.clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in wanted.items()]
    try:
        outputs = differentiable_outputs(model, x, key)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, sums


def _gradients(sums: dict[str, Tensor], leaf: Tensor) -> dict[str, Tensor]:
    """The gradient of each sum by the input, for those that the input reaches."""
    gradients = {
        name: torch.autograd.grad(
            total, leaf, torch.ones_like(total), retain_graph=True, allow_unused=True
        )[0]
        for name, total in sums.items()
    }
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
