"""Jacobian norm and offset of any differentiable model, by autograd.

By double backward, on the training's own forward pass where that was kept: the derivative of the
norm then meets the loss's on its way back, and no second pass is carried back besides. Where that
pass was compiled, which differentiates once only, on a pass of its own that runs as it was written.
Where double backward is refused there too, by fused attention kernels or custom functions, by a
difference (see `grokscope.methods.difference`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokscope.measures.batches import Batch, detached, leaf_at, with_leaf, wrt_key
from grokscope.measures.guard import eagerly
from grokscope.measures.local_map import differentiable_outputs
from grokscope.measures.view import wrt_of
from grokscope.methods.difference import difference_squared_norms
from grokscope.methods.double_backward import cheap_second_derivatives
from grokscope.methods.networks import Networks

Terms = tuple[Float[Tensor, "s n"], Float[Tensor, "s n"]]
# (number of outputs, a tensor like the directions) -> directions (S, n, r, k)
Draw = Callable[[int, Tensor], Float[Tensor, "s n r k"]]

_LOG = logging.getLogger(__name__)
# how nodes of a graph are called that differentiate no further; the last by PyTorch 2.6
_ONCE_ONLY = ("::Error", "::NotImplemented", "CompiledFunctionBackwardBackward")
# whether a model's training pass, and a pass of the penalty's own, can be differentiated twice
_TWICE: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()


def autograd_terms(
    networks: Networks,
    x: Batch,
    kept: tuple[Tensor, Tensor] | None,
    draw: Draw,
    estimator: str,
    with_offset: bool,
) -> Terms:
    """||A_x||_F^2 and ||b_x||^2 of every example, exact or estimated.

    Args:
        networks: the networks, all differentiated at once.
        x: the batch, its tensors (S n, ...).
        kept: inputs and outputs of the training's own pass on ``x``, where there is one.
        draw: draws the directions u.
        estimator: "auto", "derivative" or "difference".
        with_offset: whether offsets are wanted, which a difference does not give.
    """
    wants_graph, draw = torch.is_grad_enabled(), _once(draw)
    # inside torch.compile the penalty is compiled together with what is around it
    passes = nullcontext() if torch.compiler.is_compiling() else eagerly()
    with torch.inference_mode(False), torch.enable_grad(), passes:
        found = None
        if estimator != "difference":
            insist = estimator == "derivative"
            found = _by_double_backward(networks, x, kept, draw, with_offset, insist)
        if found is None:
            if with_offset:
                raise ValueError(
                    "offset_weight needs a model that can be differentiated twice, and not "
                    "estimator='difference': set offset_weight=0"
                )
            found = _by_difference(networks, x, kept, draw)
    norms, offsets = found if wants_graph else (found[0].detach(), found[1].detach())
    return norms, offsets


def _once(draw: Draw) -> Draw:
    """The same directions, however often they are asked for."""
    drawn: list[Tensor] = []

    def first(k: int, like: Tensor) -> Tensor:
        if not drawn:
            drawn.append(draw(k, like))
        return drawn[0]

    return first


def _by_double_backward(
    networks: Networks,
    x: Batch,
    kept: tuple[Tensor, Tensor] | None,
    draw: Draw,
    with_offset: bool,
    insist: bool,
) -> Terms | None:
    """The terms, or None where the model refuses it; with ``insist`` it is not asked."""
    known = _TWICE.get(networks.models[0], {}) if networks.models else {}
    # outputs of another dtype are those of autocast
    if kept is not None and kept[0].dtype == kept[1].dtype and known.get("training", True):
        directions = draw(kept[1].shape[1], kept[1])
        try:
            found = _squared_rows(
                *kept, directions, with_offset, lambda s: _is_allowed(networks, "training", s)
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # compiled code, which may not keep even its first graph
            found = None
            if networks.models:
                _TWICE.setdefault(networks.models[0], {})["training"] = False
        if found is not None:
            return found
    if not (insist or known.get("own", True)):
        return None
    key = wrt_key(x, wrt_of(networks.model))
    leaf = leaf_at(x, key).detach().clone().requires_grad_()
    # the fused attention kernels differentiate only once
    with sdpa_kernel(SDPBackend.MATH), cheap_second_derivatives(networks.models):
        given = with_leaf(detached(x), key, leaf)
        outputs = differentiable_outputs(networks.function, given, key)
    directions = draw(outputs.shape[1], outputs)
    return _squared_rows(
        leaf, outputs, directions, with_offset, lambda s: insist or _is_allowed(networks, "own", s)
    )


def _squared_rows(
    leaf: Float[Tensor, " m *d"],
    outputs: Float[Tensor, "m k"],
    directions: Float[Tensor, "s n r k"],
    with_offset: bool,
    is_allowed: Callable[[Tensor], bool],
) -> Terms | None:
    """The squares of u^T A and of u^T b, b = f(x) - A x, summed over the r directions u.

    A x is read off the rows u^T A. As a derivative of its own it would be of third order, and
    there PyTorch has ops that are silently wrong (LayerNorm, as of 2.13).
    """
    norms = offsets = torch.zeros_like(outputs[:, 0])
    x = leaf.detach()
    for place, u in enumerate(directions.flatten(0, 1).unbind(1)):
        (row,) = torch.autograd.grad(outputs, leaf, u, create_graph=True, materialize_grads=True)
        squares = row.flatten(1).square().sum(1)
        if place == 0 and not is_allowed(squares):
            return None
        norms = norms + squares
        if with_offset:
            offset = (u * outputs).sum(1) - (row * x).flatten(1).sum(1)
            offsets = offsets + offset.square()
    shape = directions.shape[:2]
    return norms.view(shape), offsets.view(shape)


def _is_allowed(networks: Networks, which: str, squares: Tensor) -> bool:
    """Whether PyTorch differentiates this pass of the model a second time; tried once a model."""
    model = networks.models[0] if networks.models else None
    if model is None or networks.is_stacked or not squares.requires_grad:
        return True
    known = _TWICE.setdefault(model, {})
    if which not in known:
        refusal = _refusal(squares, [own for own in model.parameters() if own.requires_grad])
        known[which] = refusal is None
        if refusal is not None and which == "own":
            _LOG.warning(
                "%s cannot be differentiated twice (%s): the gradient of its Jacobian penalty is "
                "taken as a difference of outputs, estimator='difference'",
                type(model).__name__,
                refusal,
            )
    return known[which]


def _refusal(squares: Tensor, trained: list[nn.Parameter]) -> str | None:
    """Why the graph of ``squares`` cannot be differentiated, or None."""
    waiting, seen = [squares.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # a node that raises when it is reached; a search for the parameters alone passes it by
        if node.name().endswith(_ONCE_ONLY):
            return "one of its functions differentiates once only"
        waiting += [following for following, _ in node.next_functions]
    if not trained:
        return None
    try:
        torch.autograd.grad(squares.sum(), trained, retain_graph=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def _by_difference(
    networks: Networks, x: Batch, kept: tuple[Tensor, Tensor] | None, draw: Draw
) -> Terms:
    """The terms by differences of outputs; offsets are zero."""
    key = wrt_key(x, wrt_of(networks.model))
    function = networks.function
    again: Callable[[], AbstractContextManager[None]] = nullcontext
    if any(_draws(module) for model in networks.models for module in model.modules()):
        kept, again = None, _repeating(leaf_at(x, key).device)

    def outputs_at(points: Tensor) -> Tensor:
        return differentiable_outputs(function, with_leaf(detached(x), key, points), key)

    def outputs_again(points: Tensor) -> Tensor:
        with again():
            return outputs_at(points)

    if kept is None:
        leaf = leaf_at(x, key).detach().clone().requires_grad_()
        kept = leaf, outputs_at(leaf)
    directions = draw(kept[1].shape[1], kept[1])
    norms = difference_squared_norms(
        outputs_again, *kept, directions.flatten(0, 1), coupled=is_coupled(networks)
    )
    norms = norms.view(directions.shape[:2])
    return norms, torch.zeros_like(norms)


def is_coupled(networks: Networks) -> bool:
    """Whether outputs depend on the whole batch, as behind BatchNorm in training mode."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
        for model in networks.models
        for module in model.modules()
    )


def _draws(module: nn.Module) -> bool:
    """Whether a module's outputs depend on chance, as those of dropout in training mode do."""
    rate = getattr(module, "dropout", getattr(module, "p", 0.0))  # which may be a module instead
    draws = isinstance(module, nn.RReLU) or (isinstance(rate, float | int) and rate > 0)
    return module.training and draws


def _repeating(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Contexts in which the global generators draw what they draw from now on, once more."""
    cuda = [device] if device.type == "cuda" else []
    states = torch.get_rng_state(), [torch.cuda.get_rng_state(each) for each in cuda]

    @contextmanager
    def repeat() -> Iterator[None]:
        with torch.random.fork_rng(cuda):
            torch.set_rng_state(states[0])
            for each, state in zip(cuda, states[1], strict=True):
                torch.cuda.set_rng_state(state, each)
            yield

    return repeat
