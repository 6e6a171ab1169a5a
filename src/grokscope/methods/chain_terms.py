"""Jacobian norm and offset of chains of linear layers, differentiated without double backward.

For a chain (see `grokscope.measures.chain`) the slopes D_l of the activations are constant near
x, so the projected Jacobian u^T A = u^T D_L W_L ... D_1 W_1 is a product in which each weight
occurs once. With g_l = u^T D_L W_L ... D_l, the squared norm s = ||g_1 W_1||^2 has the gradients

    ds/dW_1 = 2 g_1^T g_1 W_1
    ds/dW_l = g_l^T (ds/dg_{l-1} D_{l-1}),    ds/dg_1 = 2 g_1 W_1 W_1^T,
                                              ds/dg_l = (ds/dg_{l-1} D_{l-1}) W_l^T

The biases do not occur: they move only the kinks. Where the first layer has more inputs than
there are rows g_1, its Gram matrix W_1 W_1^T serves value and gradient both, and the product g_1
W_1 of the size of the inputs is never formed. All of it may have a leading axis of S networks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grokscope.measures.chain import Fold, gram
from grokscope.measures.precision import full_precision


class ChainPass(NamedTuple):
    """A forward pass of S chains.

    Weights are (S, h_l, h_{l-1}), biases (S, 1, h_l), slopes and intercepts (S, n, h_l). Of one
    network all of them go without the leading axis: its weights are the parameters themselves, for
    a gradient that reaches them through a view is not added to in place, and views cost as much as
    small products.

    ``features_first`` says that the latter lie in memory as (S, h_l, n), as a stack computes
    them: products are then formed transposed, so that no elementwise step crosses memory.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    folds: list[Fold]
    features_first: bool


def chain_squared_norms(
    chain: ChainPass, directions: Float[Tensor, "s n r k"]
) -> Float[Tensor, "s n"]:
    """The squared norms of u^T A, summed over the r directions u of every example."""
    s, n, r, _ = directions.shape
    # r directions of an example share its slopes: they become rows of the same product, n r of
    # them, rather than an axis, so that every product stays one matrix product.
    slopes = [fold.slope for fold in chain.folds]
    if r > 1:
        slopes = [
            None if slope is None else _repeated(slope, r, chain.features_first) for slope in slopes
        ]
    rows = directions.flatten(*((0, 2) if chain.weights[0].ndim == 2 else (1, 2)))
    norms = _SquaredNorms.apply(rows, slopes, chain.features_first, *chain.weights)
    return norms if r == 1 else norms.view(s, n, r).sum(2)


def chain_squared_offsets(chain: ChainPass) -> Float[Tensor, "s n_or_1"]:
    """||b_x||^2 for b_x = f(x) - A x: what the biases and the saturations contribute, propagated.

    The result is (S, 1) if nothing depends on the example: no activations.
    """
    first = chain.weights[0]
    # The affine map at zero: D (W (...) + b) + c, from the first layer to the last. It stays one
    # row until the first slope, which is the first that differs from example to example.
    offset = first.new_zeros(*first.shape[:-2], 1, first.shape[-1])
    for weight, bias, fold in zip(chain.weights, chain.biases, chain.folds, strict=True):
        offset = offset @ weight.mT
        if bias is not None:
            offset = offset + bias
        if fold.slope is not None:
            offset = offset * fold.slope
        if fold.intercept is not None:
            offset = offset + fold.intercept
    return offset.square().sum(-1).view(-1, offset.shape[-2])


class _SquaredNorms(torch.autograd.Function):
    """||u^T A||^2 for directions (S, m, k), each with its own slopes (S, m, h_l).

    Of one network both come without S; the result is (S, m) all the same.

    The code is terse on the calls it makes: at the sizes of an MLP each costs as much as a
    hundredth of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        directions: Tensor,
        slopes: list[Tensor | None],
        features_first: bool,
        *weights: Tensor,
    ) -> Tensor:
        rows = [directions if slopes[-1] is None else directions * slopes[-1]]  # g_L ... g_1
        # in place on fresh products, so that the rows saved for backward are the only memory
        for weight, slope in zip(weights[:0:-1], slopes[-2::-1], strict=True):
            row = _product(rows[-1], weight, features_first)
            rows.append(row if slope is None else row.mul_(slope))
        first, last = weights[0], rows[-1]
        # s = g_1 (W_1 W_1^T) g_1^T, or |g_1 W_1|^2: ``along`` is what g_1, or itself, is met with
        ctx.by_gram = gram_is_shorter(last.shape[-2], *first.shape[-2:])
        along = _product(last, _grams(first) if ctx.by_gram else first, features_first)
        ctx.slopes, ctx.features_first = slopes, features_first
        ctx.save_for_backward(along, *weights, *reversed(rows))
        return (along * (last if ctx.by_gram else along)).sum(-1).view(-1, last.shape[-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        along, *tensors = ctx.saved_tensors
        depth, features_first = len(ctx.slopes), ctx.features_first
        weights, rows = tensors[:depth], tensors[depth:]
        needed = ctx.needs_input_grad[3:]
        gradients: list[Tensor | None] = [None] * depth
        with full_precision(grad):
            # grad is that of the sum over examples, so each row of ds/dg is scaled by its own
            scale = (2 * grad).reshape(*along.shape[:-1], 1)
            change = along * scale
            if ctx.by_gram:
                if needed[0]:
                    # 2 g_1^T g_1 W_1 by way of (h_1, h_1), smaller than g_1 W_1 (n, d) with its
                    # many inputs
                    gram_change = _matmul(rows[0].mT, rows[0] * scale)
                    gradients[0] = _matmul(gram_change, weights[0])
            else:
                if needed[0]:
                    gradients[0] = _matmul(rows[0].mT, change)
                # 2 g_1 W_1 W_1^T; by the Gram matrix ``along`` was that already
                change = _product(change, weights[0].mT, features_first)
            for index in range(1, depth):
                if index > 1:
                    change = _product(change, weights[index - 1].mT, features_first)
                slope = ctx.slopes[index - 1]
                # ds/dg_{l-1} D_{l-1}: g_{l-1} had the slopes multiplied in, so its change has them
                # too
                if slope is not None:
                    change.mul_(slope)
                if needed[index]:
                    gradients[index] = _matmul(rows[index].mT, change)
        return None, None, None, *gradients


def _product(rows: Tensor, matrix: Tensor, features_first: bool) -> Tensor:
    """``rows @ matrix`` (S, m, h), laid out in memory as the slopes that will multiply it are."""
    return _matmul(matrix.mT, rows.mT).mT if features_first else _matmul(rows, matrix)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of matrices, or of stacks of them, without asking which broadcast is meant."""
    return a.mm(b) if a.ndim == 2 else a.bmm(b)


def _repeated(slope: Tensor, r: int, features_first: bool) -> Tensor:
    """Each example's slopes r times in a row, in the same layout."""
    if features_first:
        return slope.mT.repeat_interleave(r, -1).mT
    return slope.repeat_interleave(r, -2)


def _grams(first: Tensor) -> Tensor:
    """W W^T of each network; on a CPU one by one, because half of each is mirrored."""
    if first.ndim == 2:
        return gram(first)
    if first.device.type != "cpu":
        return first.bmm(first.mT)
    return torch.stack([gram(own) for own in first.unbind()])


def gram_is_shorter(num_rows: int, width: int, num_inputs: int) -> bool:
    """Whether value and gradient of ||g W||^2 take fewer multiplications by W W^T."""
    # Multiplications, value and gradient together. By the Gram matrix: W W^T and (g^T g) W, h^2 d
    # each, and g (W W^T) and g^T g, m h^2 each. Without: g W, g^T (g W) and (g W) W^T, m h d each.
    by_gram = 2 * width**2 * (num_inputs + num_rows)
    return by_gram < 3 * num_rows * width * num_inputs
