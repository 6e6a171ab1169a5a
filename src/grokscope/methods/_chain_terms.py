"""Jacobian norm and offset of a chain of linear layers, differentiated without double backward.

For a chain (see `grokscope.measures.chain`) the slopes D_l of the activations are constant near
x, so the projected Jacobian u^T A = u^T D_L W_L ... D_1 W_1 is a product in which each weight
occurs once. With g_l = u^T D_L W_L ... D_l, the squared norm s = ||g_1 W_1||^2 has the gradients

    ds/dW_1 = 2 g_1^T g_1 W_1
    ds/dW_l = g_l^T (ds/dg_{l-1} D_{l-1}),    ds/dg_1 = 2 g_1 W_1 W_1^T,
                                              ds/dg_l = (ds/dg_{l-1} D_{l-1}) W_l^T

The biases do not occur: they move only the kinks. Where the first layer has more inputs than
there are rows g_1, its Gram matrix W_1 W_1^T serves value and gradient both, and the product g_1
W_1 of the size of the inputs is never formed.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grokscope.measures.chain import Chain, Fold, gram
from grokscope.measures.local_map import full_precision


def chain_squared_norms(
    chain: Chain, folds: list[Fold], directions: Float[Tensor, "n r k"]
) -> Float[Tensor, " n"]:
    """The squared norms of u^T A, summed over the r directions u of every example."""
    n, r, _ = directions.shape
    slopes = [fold.slope for fold in folds]
    if r == 1:
        return _SquaredNorms.apply(directions.squeeze(1), slopes, *chain.weights)
    slopes = [None if slope is None else slope.repeat_interleave(r, 0) for slope in slopes]
    return _SquaredNorms.apply(directions.flatten(0, 1), slopes, *chain.weights).view(n, r).sum(1)


def chain_squared_offsets(chain: Chain, folds: list[Fold]) -> Float[Tensor, " n"]:
    """||b_x||^2 for b_x = f(x) - A x: what the biases and the saturations contribute, propagated.

    The result has the length 1 if nothing depends on the example: no activations.
    """
    offset = chain.weights[0].new_zeros(1, chain.weights[0].shape[1])
    for weight, bias, fold in zip(chain.weights, chain.biases, folds, strict=True):
        offset = offset @ weight.mT
        if bias is not None:
            offset = offset + bias
        if fold.slope is not None:
            offset = offset * fold.slope
        if fold.intercept is not None:
            offset = offset + fold.intercept
    return offset.square().sum(1)


class _SquaredNorms(torch.autograd.Function):
    """||u^T A||^2 for directions (m, k), each with its own slopes (m, h_l).

    The code is terse on the calls it makes: at the sizes of an MLP each costs as much as a
    hundredth of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, directions: Tensor, slopes: list[Tensor | None], *weights: Tensor
    ) -> Tensor:
        rows = [directions if slopes[-1] is None else directions * slopes[-1]]  # g_L ... g_1
        for weight, slope in zip(weights[:0:-1], slopes[-2::-1], strict=True):
            row = rows[-1].mm(weight)
            rows.append(row if slope is None else row.mul_(slope))
        first, last = weights[0], rows[-1]
        ctx.by_gram = gram_is_shorter(last.shape[0], *first.shape)
        along = last.mm(gram(first) if ctx.by_gram else first)
        ctx.slopes = slopes
        ctx.save_for_backward(along, *weights, *reversed(rows))
        return (along * (last if ctx.by_gram else along)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        along, *tensors = ctx.saved_tensors
        depth = len(ctx.slopes)
        weights, rows = tensors[:depth], tensors[depth:]
        needed = ctx.needs_input_grad[2:]
        gradients: list[Tensor | None] = [None] * depth
        with full_precision(grad):
            scale = (2 * grad).unsqueeze(1)
            change = along * scale
            if ctx.by_gram:
                if needed[0]:
                    gradients[0] = rows[0].mT.mm(rows[0] * scale).mm(weights[0])
            else:
                if needed[0]:
                    gradients[0] = rows[0].mT.mm(change)
                change = change.mm(weights[0].mT)
            for index in range(1, depth):
                if index > 1:
                    change = change.mm(weights[index - 1].mT)
                slope = ctx.slopes[index - 1]
                if slope is not None:
                    change.mul_(slope)
                if needed[index]:
                    gradients[index] = rows[index].mT.mm(change)
        return None, None, *gradients


def gram_is_shorter(num_rows: int, width: int, num_inputs: int) -> bool:
    """Whether value and gradient of ||g W||^2 take fewer multiplications by W W^T."""
    by_gram = 2 * width**2 * (num_inputs + num_rows)
    return by_gram < 3 * num_rows * width * num_inputs
