"""The Jacobian penalty: bound how strongly outputs react to inputs, on the training batch.

    R = 1/n sum_x ||A_x||_F^2 + offset_weight / n sum_x ||b_x||^2,

where A_x = d f(x) / d x and b_x = f(x) - A_x x. GrokAlign (Walker, Humayun, Balestriero & Baraniuk
2025, arXiv:2506.12284, section 3) shows that minimizing a loss under a bound on ||A_x||_F aligns
A_x with x, which is what a network does when it groks; the bound on b_x extends that to networks
with biases. The norm is estimated from random projections (Hoffman, Roberts & Yaida 2019,
arXiv:1908.02729, algorithm 1).

Cost with r projections, next to a training step: a forward pass, r backward passes to the input,
and the derivative of these by the parameters. A chain of linear layers and piecewise-linear
activations (as `nn.Sequential` has it) is differentiated by a formula of its own; every other model
by double backward.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.measures.batches import Batch, Key, batch_size, leaf_at, wrt_key
from grokscope.measures.chain import Chain, Fold, chain_of
from grokscope.measures.inputs import Model, check_batch_shape
from grokscope.measures.jacobian import unit_vectors
from grokscope.measures.local_map import full_precision
from grokscope.measures.view import continuous, unwrapped, wrt_of
from grokscope.methods._autograd_terms import DifferentiableMap
from grokscope.methods._chain_terms import chain_squared_norms, chain_squared_offsets


def jacobian_penalty(
    model: Model,
    x: Batch,
    *,
    projections: int | None = 1,
    squared: bool = True,
    offset_weight: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """A scalar to add to the loss, differentiable in the model's parameters.

    By default the mean over the batch of the *squared* Frobenius norm of the input Jacobian,
    estimated without bias from one random projection for each example. With ``squared=False`` the
    mean of the norm itself; from projections it is the root of the unbiased square, hence a little
    low. ``x`` is a constant to it: no gradient flows to ``x``, and its ``.grad`` stays as it is.

    The outputs are those of the model in the mode it is in. Dropout in training mode draws a mask
    of its own for the penalty. BatchNorm in training mode makes the outputs of a batch depend on
    each other; the gradient with respect to an example then takes in how the example moves the
    others, and with projections the squared penalty is the squared norm of the Jacobian of the
    whole batch, over n. Running statistics are updated by your forward pass only.

    Args:
        model: Maps a batch to (n, k) or (n,).
        x: The batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        projections: Random directions for each example, on the unit sphere of the outputs; all k
            outputs exactly if None, at k / r times the cost of r projections.
        squared: The squared norm or the norm.
        offset_weight: Adds this much of the mean of ||b_x||^2, b_x = f(x) - A_x x. Exact for a
            chain; for other models estimated without bias from the same projections.
        generator: Source of the projections; if None the global one, as for dropout.

    Returns:
        The penalty, a scalar; without a graph under ``torch.no_grad``. It is computed in the
        precision of the weights, also under autocast.

    Raises:
        ValueError: If ``x`` has no batch axis or is empty, the outputs have another shape or no
            gradient, or an argument is out of range.

    >>> import torch, grokscope as gs
    >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
    >>> loss = torch.nn.functional.cross_entropy(model(x), y) + 1e-3 * gs.jacobian_penalty(model, x)
    """
    check_projections(projections)
    if offset_weight < 0:
        raise ValueError(f"offset_weight must be 0 or positive: got {offset_weight}")
    norms, offsets = squared_terms(
        model, x, projections, generator, with_offset=offset_weight > 0, captured=None
    )
    penalty = norms.mean() if squared else mean_root(norms)
    return penalty if offsets is None else penalty + offset_weight * offsets.mean()


def squared_terms(
    model: Model,
    x: Batch,
    projections: int | None,
    generator: torch.Generator | None,
    *,
    with_offset: bool,
    captured: tuple[Chain, list[Fold]] | None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"] | None]:
    """||A_x||_F^2, exact or estimated, and ||b_x||^2 if asked for, one for each example.

    ``captured`` are the chain and folds of a forward pass on ``x``, where there was one.
    """
    check_batch_shape(x)
    model = getattr(model, "_orig_mod", model)  # compiled models differentiate only once
    with torch.no_grad():
        x = continuous(model, x)
    key = wrt_key(x, wrt_of(model))
    with full_precision(leaf_at(x, key)):
        chain = captured[0] if captured else None
        if chain is None and isinstance(x, Tensor):
            chain = chain_of(unwrapped(model), x)
        if chain is None or not isinstance(x, Tensor):
            return _autograd_terms(model, x, key, projections, generator, with_offset)
        folds = _folds(chain, x) if captured is None else captured[1]
        num_outputs = chain.weights[-1].shape[0]
        directions = _directions(len(x), projections, num_outputs, generator, chain.weights[-1])
        norms = chain_squared_norms(chain, folds, directions)
        if not with_offset:
            return norms, None
        return norms, chain_squared_offsets(chain, folds).expand(len(x))


def _autograd_terms(
    model: Model,
    x: Batch,
    key: Key,
    projections: int | None,
    generator: torch.Generator | None,
    with_offset: bool,
) -> tuple[Tensor, Tensor | None]:
    wants_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        local = DifferentiableMap(model, x, key)
        num_outputs = local.outputs.shape[1]
        directions = _directions(batch_size(x), projections, num_outputs, generator, local.outputs)
        norms, offsets = local.squared_terms(directions)
    if not wants_graph:
        norms, offsets = norms.detach(), offsets.detach()
    return norms, offsets if with_offset else None


def mean_root(squares: Float[Tensor, "*s n"]) -> Float[Tensor, "*s"]:
    """The mean root along the last axis; a root of zero, at its kink, has the gradient zero."""
    positive = squares > 0
    return torch.where(positive, squares.where(positive, 1).sqrt(), 0).mean(-1)


def check_projections(projections: int | None) -> None:
    """Raise unless ``projections`` is None or a positive integer."""
    if projections is not None and projections < 1:
        raise ValueError(f"projections must be a positive integer or None: got {projections}")


def _folds(chain: Chain, x: Tensor) -> list[Fold]:
    with torch.no_grad():
        return chain.run(x).folds


def _directions(
    n: int, projections: int | None, k: int, generator: torch.Generator | None, like: Tensor
) -> Float[Tensor, "n r k"]:
    """Vectors u whose sum of ||u^T A||^2 is the squared norm, or estimates it."""
    if projections is None:
        return torch.eye(k, dtype=like.dtype, device=like.device).expand(n, k, k)
    vectors = unit_vectors((n, projections, k), generator, like.detach())
    return vectors * (k / projections) ** 0.5
