"""The Jacobian norm and offset of S chains at once; see `grokscope.methods._chain_terms`.

The formulas are those of one chain, transposed: a stack holds features before examples, so that
g_l = D_l W_{l+1}^T g_{l+1} are (S, h_l, m) with a column for each direction.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grokscope.measures.local_map import full_precision
from grokscope.methods._chain_terms import gram_is_shorter
from grokscope.methods.stacked.network import StackedChain


def stacked_squared_norms(
    chain: StackedChain, directions: Float[Tensor, "s n r k"]
) -> Float[Tensor, "s n"]:
    """The squared norms of u^T A, summed over the r directions u of every example."""
    s, n, r, _ = directions.shape
    slopes = [fold.slope for fold in chain.folds]
    if r > 1:
        slopes = [None if slope is None else slope.repeat_interleave(r, 2) for slope in slopes]
    columns = directions.flatten(1, 2).mT
    norms = _StackedSquaredNorms.apply(columns, slopes, *chain.weights)
    return norms.view(s, n, r).sum(2)


def stacked_squared_offsets(chain: StackedChain) -> Float[Tensor, "s n_or_1"]:
    """||b_x||^2 for b_x = f(x) - A x; (S, 1) if nothing depends on the example."""
    first = chain.weights[0]
    offset = first.new_zeros(first.shape[0], first.shape[2], 1)
    for weight, bias, fold in zip(chain.weights, chain.biases, chain.folds, strict=True):
        offset = weight @ offset
        if bias is not None:
            offset = offset + bias
        if fold.slope is not None:
            offset = offset * fold.slope
        if fold.intercept is not None:
            offset = offset + fold.intercept
    return offset.square().sum(1)


class _StackedSquaredNorms(torch.autograd.Function):
    """||u^T A||^2 for directions (S, k, m), each with its own slopes (S, h_l, m)."""

    @staticmethod
    def forward(
        ctx: Any, directions: Tensor, slopes: list[Tensor | None], *weights: Tensor
    ) -> Tensor:
        columns = [directions if slopes[-1] is None else directions * slopes[-1]]
        for weight, slope in zip(weights[:0:-1], slopes[-2::-1], strict=True):
            column = weight.mT.bmm(columns[-1])
            columns.append(column if slope is None else column.mul_(slope))
        first, last = weights[0], columns[-1]
        ctx.by_gram = gram_is_shorter(last.shape[2], *first.shape[1:])
        along = (first.bmm(first.mT) if ctx.by_gram else first.mT).bmm(last)
        ctx.slopes = slopes
        ctx.save_for_backward(along, *weights, *reversed(columns))
        return (along * (last if ctx.by_gram else along)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        along, *tensors = ctx.saved_tensors
        depth = len(ctx.slopes)
        weights, columns = tensors[:depth], tensors[depth:]
        needed = ctx.needs_input_grad[2:]
        gradients: list[Tensor | None] = [None] * depth
        with full_precision(grad):
            scale = (2 * grad).unsqueeze(1)
            change = along * scale
            if ctx.by_gram:
                if needed[0]:
                    gradients[0] = (columns[0] * scale).bmm(columns[0].mT).bmm(weights[0])
            else:
                if needed[0]:
                    gradients[0] = columns[0].bmm(change.mT)
                change = weights[0].bmm(change)
            for index in range(1, depth):
                if index > 1:
                    change = weights[index - 1].bmm(change)
                slope = ctx.slopes[index - 1]
                if slope is not None:
                    change.mul_(slope)
                if needed[index]:
                    gradients[index] = columns[index].bmm(change.mT)
        return None, None, *gradients
