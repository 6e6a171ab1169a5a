"""The Jacobian penalty: bound how strongly outputs react to inputs, on the training batch.

    R = 1/n sum_x ||A_x||_F^2 + offset_weight / n sum_x ||b_x||^2,

where A_x = d f(x) / d x and b_x = f(x) - A_x x. GrokAlign (Walker, Humayun, Balestriero & Baraniuk
2025, arXiv:2506.12284, section 3) shows that minimizing a loss under a bound on ||A_x||_F aligns
A_x with x, which is what a network does when it groks; the bound on b_x extends that to networks
with biases. The norm is estimated from random projections (Hoffman, Roberts & Yaida 2019,
arXiv:1908.02729, algorithm 1).

Cost with r projections, next to a training step: a forward pass, unless the training's own was
kept (`GrokAlign.start`), r backward passes to the input, and the derivative of these by the
parameters. Chains of linear layers, of convolutions, pooling and piecewise-linear activations (as
`nn.Sequential` has them) are differentiated by formulas of their own, every other model by double
backward, or by a difference of outputs where that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, leaf_at, leaves, map_leaves, wrt_key
from grokscope.measures.inputs import (
    check_batch,
    check_batch_shape,
    check_model,
    check_not_sharded,
)
from grokscope.measures.precision import full_precision
from grokscope.measures.view import Model, wrt_of
from grokscope.methods.autograd_terms import autograd_terms, is_coupled
from grokscope.methods.chain_terms import chain_squared_norms, chain_squared_offsets
from grokscope.methods.layer_chain import layer_squared_norms, layer_squared_offsets
from grokscope.methods.networks import Networks, OneNetwork, normal_numbers
from grokscope.spelling import unknown_name

ESTIMATORS = ("auto", "derivative", "difference")


@checked_arguments
def jacobian_penalty(
    model: Model,
    x: Batch,
    *,
    projections: int | None = 1,
    squared: bool = True,
    offset_weight: float = 0.0,
    examples: int | None = None,
    estimator: str = "auto",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """A scalar to add to the loss, differentiable in the model's parameters.

    By default the mean over the batch of the *squared* Frobenius norm of the input Jacobian,
    estimated without bias from one random projection for each example. With ``squared=False`` the
    mean of the norm itself; from projections it is the root of the unbiased square, hence a little
    low. ``x`` is a constant to it: no gradient flows to ``x``, and its ``.grad`` stays as it is.

    The outputs are those of the model in the mode it is in. Dropout in training mode draws a mask
    of its own for the penalty, where the training's own pass was not kept. BatchNorm in training
    mode makes the outputs of a batch depend on each other; the gradient with respect to an example
    then takes in how the example moves the others, and the squared penalty is an unbiased estimate
    of the squared norm of the Jacobian of the whole batch, over n, also with ``projections=None``,
    which then draws random signs. Running statistics are updated by your forward pass only.

    Args:
        model: maps a batch to (n, k) or (n,).
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        projections: random directions for each example, on the unit sphere of the outputs; all k
            outputs if None, exactly where examples do not depend on each other, at k / r times the
            cost of r projections.
        squared: the squared norm or the norm.
        offset_weight: adds this much of the mean of ||b_x||^2, b_x = f(x) - A_x x. Exact for a
            chain; for other models estimated without bias from the same projections.
        examples: take the penalty on this many random examples of the batch, an unbiased estimate
            at a part of the cost; on all if None.
        estimator: "derivative" is the derivative of the penalty: by a formula of its own for chains
            of layers, by double backward for other models. "difference" takes its gradient as a
            difference of outputs, which needs no double backward and differs where the network has
            kinks (see `grokscope.methods.difference`). "auto" is "derivative", except for models
            that PyTorch does not differentiate twice; it says so once in the log.
        generator: source of examples and projections; if None the global one, as for dropout.

    Returns:
        The penalty, a scalar; without a graph under ``torch.no_grad``. It is computed in the
        precision of the weights, also under autocast.

    Raises:
        ValueError: if ``x`` has no batch axis or is empty, the outputs have another shape or no
            gradient, or an argument is out of range.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> loss = torch.nn.functional.cross_entropy(model(x), y)
        >>> loss = loss + 1e-3 * gs.jacobian_penalty(model, x)
    """
    check_model(model)
    check_training_batch(x)
    check_projections(projections)
    check_estimate(examples, estimator, offset_weight)
    whole = map_leaves(lambda leaf: leaf.unsqueeze(0), x)
    norms, offsets = squared_terms(
        OneNetwork(model),
        whole,
        projections,
        [generator],
        with_offset=offset_weight > 0,
        examples=examples,
        estimator=estimator,
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
    examples: int | None = None,
    estimator: str = "auto",
) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"] | None]:
    """||A_x||_F^2, exact or estimated, and ||b_x||^2 if asked for, one for each example.

    The tensors of ``x`` are (S, n, ...). Each network draws its examples and its projections from
    its own generator.
    """
    _check_not_sharded(networks)
    if examples is not None:
        x = _some(networks, x, examples, generators, step)
    num_examples = next(iter(leaves(x).values())).shape[1]
    draw = _Draw(networks, num_examples, projections, generators, step)
    if isinstance(x, Tensor) and estimator != "difference" and x.numel():
        with full_precision(x):
            found = _chain_terms(networks, x, draw, with_offset)
        if found is not None:
            return found
    flat = map_leaves(lambda leaf: leaf.flatten(0, 1), x)
    check_batch_shape(flat)
    with torch.no_grad():
        flat = networks.continuous(flat)
    leaf = leaf_at(flat, wrt_key(flat, wrt_of(networks.model)))
    kept = networks.differentiable_pass(x) if isinstance(x, Tensor) else None
    with full_precision(leaf) if estimator != "difference" else nullcontext():
        norms, offsets = autograd_terms(networks, flat, kept, draw, estimator, with_offset)
    return norms, offsets if with_offset else None


def _chain_terms(
    networks: Networks, x: Tensor, draw: _Draw, with_offset: bool
) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"] | None] | None:
    """The terms of a chain of linear layers, or of layers that convolutions are among, or None."""
    chain = networks.chain(x)
    if chain is not None:
        last = chain.weights[-1]
        norms = chain_squared_norms(chain, draw(last.shape[-2], last))
        return norms, chain_squared_offsets(chain).expand_as(norms) if with_offset else None
    made = networks.layers(x)
    if made is None or made.outputs[-1].ndim > 2:  # then the general way says what is wrong
        return None
    norms = layer_squared_norms(made, draw(made.result.shape[1], made.result).flatten(0, 1))
    offsets = layer_squared_offsets(made).unsqueeze(0) if with_offset else None
    return norms.unsqueeze(0), offsets


def _some(
    networks: Networks,
    x: Batch,
    number: int,
    generators: Sequence[torch.Generator | None],
    step: int,
) -> Batch:
    """``number`` examples of each network's batch, drawn without replacement; all if it has less.

    The mean over them estimates that over the batch without bias.
    """
    first = next(iter(leaves(x).values()))
    n, device = first.shape[1], first.device
    if number >= n:
        return x

    def drawn(_step: int) -> Tensor:
        chosen = [torch.randperm(n, generator=each)[:number] for each in generators]
        return torch.stack(chosen).to(device)  # here: a recorded step copies nothing to a GPU

    index = networks.from_host(step, drawn)

    def picked(leaf: Tensor) -> Tensor:
        own = index.to(leaf.device)
        if len(own) == 1:
            return leaf.squeeze(0).index_select(0, own.squeeze(0)).unsqueeze(0)
        return leaf[torch.arange(len(own), device=leaf.device)[:, None], own]

    return map_leaves(picked, x)


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
        # what is called again at every replay holds on to no tensor of this step
        generators, device = self.generators, like.device
        if r is None:
            whole = torch.eye(k, dtype=like.dtype, device=like.device).expand(s, n, k, k)
            if not is_coupled(self.networks):
                return whole

            # Rows of a batch whose examples meet are rows of sums over it. With random signs,
            # products of the rows of different examples cancel in the mean.
            def signs(_step: int) -> Tensor:
                return normal_numbers(generators, (n, k, 1), device).sign()

            return whole * self.networks.from_host(self.step, signs).to(like.dtype)

        def drawn(_step: int) -> Tensor:
            return normal_numbers(generators, (n, r, k), device)

        normal = self.networks.from_host(self.step, drawn).to(like.dtype)
        # on the sphere: E u u^T is a multiple of the identity as for Gaussian u, and the variance
        # of |u|^2 is left out of the estimate's
        lengths = torch.linalg.vector_norm(normal, dim=3, keepdim=True)
        return (normal / lengths).mul_((k / r) ** 0.5)


def _check_not_sharded(networks: Networks) -> None:
    """Raise where parameters are distributed over processes; looked at once, not at each step."""
    if networks.are_whole:
        return
    for model in networks.models[:1]:
        check_not_sharded(
            model,
            "it reduces gradients after the first of the two derivatives that a penalty takes; "
            "train with DistributedDataParallel",
        )
    networks.are_whole = True


def mean_root(squares: Float[Tensor, "*s n"]) -> Float[Tensor, "*s"]:
    """The mean root along the last axis; a root of zero, at its kink, has the gradient zero."""
    positive = squares > 0
    return torch.where(positive, squares.where(positive, 1).sqrt(), 0).mean(-1)


def check_training_batch(x: Batch) -> None:
    """Raise unless ``x`` is a batch, of finite numbers where these are at hand."""
    # On an accelerator the numbers are not read, which would wait for it at each step; a batch with
    # NaN makes the loss itself NaN there.
    on_cpu = all(leaf.device.type == "cpu" for leaf in leaves(x).values())
    (check_batch if on_cpu and not torch.compiler.is_compiling() else check_batch_shape)(x)


def check_estimate(examples: int | None, estimator: str, offset_weight: float) -> None:
    """Raise unless these settings are in range and go together."""
    if not 0 <= offset_weight < float("inf"):
        raise ValueError(f"offset_weight must be 0 or positive, and finite: got {offset_weight}")
    if examples is not None and examples < 1:
        raise ValueError(f"examples must be a positive integer or None: got {examples}")
    if estimator not in ESTIMATORS:
        raise ValueError(unknown_name("estimator", estimator, ESTIMATORS))
    if estimator == "difference" and offset_weight > 0:
        raise ValueError(
            "estimator='difference' has no offsets: set offset_weight=0, or estimator='derivative'"
        )


def check_projections(projections: int | None) -> None:
    """Raise unless ``projections`` is None or a positive integer."""
    if projections is not None and projections < 1:
        raise ValueError(f"projections must be a positive integer or None: got {projections}")
