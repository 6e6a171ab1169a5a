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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokscope.measures.batches import Batch, detached, leaf_at, map_leaves, with_leaf, wrt_key
from grokscope.measures.inputs import check_batch_shape
from grokscope.measures.local_map import differentiable_outputs, full_precision
from grokscope.measures.view import Model, wrt_of
from grokscope.methods.chain_terms import chain_squared_norms, chain_squared_offsets
from grokscope.methods.networks import Networks, OneNetwork, normal_numbers


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
    check_batch_shape(x)
    check_projections(projections)
    if offset_weight < 0:
        raise ValueError(f"offset_weight must be 0 or positive: got {offset_weight}")
    whole = map_leaves(lambda leaf: leaf.unsqueeze(0), x)
    norms, offsets = squared_terms(
        OneNetwork(model), whole, projections, [generator], with_offset=offset_weight > 0
    )
    penalty = norms.mean() if squared else mean_root(norms).squeeze(0)
    return penalty if offsets is None else penalty + offset_weight * offsets.mean()


def squared_terms(
    networks: Networks,
    x: Batch,
    projections: int | None,
    generators: Sequence[torch.Generator | None],
    *,
    with_offset: bool,
    step: int = 0,
) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"] | None]:
    """||A_x||_F^2, exact or estimated, and ||b_x||^2 if asked for, one for each example.

    The tensors of ``x`` are (S, n, ...). Each network draws its projections from its own
    generator.
    """
    flat = map_leaves(lambda leaf: leaf.flatten(0, 1), x)
    check_batch_shape(flat)
    with torch.no_grad():
        flat = networks.continuous(flat)
    leaf = leaf_at(flat, wrt_key(flat, wrt_of(networks.model)))
    draw = _Draw(networks, len(leaf) // len(networks), projections, generators, step)
    with full_precision(leaf):
        chain = networks.chain(x) if isinstance(x, Tensor) else None
        if chain is None:
            norms, offsets = _autograd_terms(networks, flat, draw)
            return norms, offsets if with_offset else None
        last = chain.weights[-1]
        directions = draw(last.shape[-2], last)
        norms = chain_squared_norms(chain, directions)
        if not with_offset:
            return norms, None
        return norms, chain_squared_offsets(chain).expand_as(norms)


@dataclass(frozen=True)
class _Draw:
    """Draws vectors u whose sum of ||u^T A||^2 is the squared norm, or estimates it."""

    networks: Networks
    num_examples: int
    projections: int | None
    generators: Sequence[torch.Generator | None]
    step: int

    def __call__(self, k: int, like: Tensor) -> Float[Tensor, "s n r k"]:
        s, n, r = len(self.networks), self.num_examples, self.projections
        if r is None:
            return torch.eye(k, dtype=like.dtype, device=like.device).expand(s, n, k, k)
        # what is called again at every replay holds on to no tensor of this step
        generators, device = self.generators, like.device

        def drawn(_step: int) -> Tensor:
            return normal_numbers(generators, (n, r, k), device)

        normal = self.networks.from_host(self.step, drawn).to(like.dtype)
        lengths = torch.linalg.vector_norm(normal, dim=3, keepdim=True)
        return normal / lengths * (k / r) ** 0.5


def _autograd_terms(
    networks: Networks, x: Batch, draw: _Draw
) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"]]:
    """The terms of any differentiable model, by double backward on all networks at once."""
    wants_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        key = wrt_key(x, wrt_of(networks.model))
        leaf = leaf_at(x, key).detach().clone().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels differentiate only once
            given = with_leaf(detached(x), key, leaf)
            outputs = differentiable_outputs(networks.function, given, key)
        directions = draw(outputs.shape[1], outputs)
        norms, offsets = _squared_rows(leaf, outputs, directions.flatten(0, 1))
    shape = directions.shape[:2]
    if not wants_graph:
        norms, offsets = norms.detach(), offsets.detach()
    return norms.view(shape), offsets.view(shape)


def _squared_rows(
    leaf: Float[Tensor, " m *d"], outputs: Float[Tensor, "m k"], directions: Float[Tensor, "m r k"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """The squares of u^T A and of u^T b, b = f(x) - A x, summed over the r directions u.

    A x is read off the rows u^T A. As a derivative of its own it would be of third order, and
    there PyTorch has ops that are silently wrong (LayerNorm, as of 2.13).
    """
    norms = offsets = torch.zeros_like(outputs[:, 0])
    x = leaf.detach()
    for u in directions.unbind(1):
        (row,) = torch.autograd.grad(outputs, leaf, u, create_graph=True, materialize_grads=True)
        norms = norms + row.flatten(1).square().sum(1)
        offset = (u * outputs).sum(1) - (row * x).flatten(1).sum(1)
        offsets = offsets + offset.square()
    return norms, offsets


def mean_root(squares: Float[Tensor, "*s n"]) -> Float[Tensor, "*s"]:
    """The mean root along the last axis; a root of zero, at its kink, has the gradient zero."""
    positive = squares > 0
    return torch.where(positive, squares.where(positive, 1).sqrt(), 0).mean(-1)


def check_projections(projections: int | None) -> None:
    """Raise unless ``projections`` is None or a positive integer."""
    if projections is not None and projections < 1:
        raise ValueError(f"projections must be a positive integer or None: got {projections}")
