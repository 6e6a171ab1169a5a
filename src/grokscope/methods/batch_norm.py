"""BatchNorm in training mode, whose gradient is differentiated at the price of a gradient.

Of y = w z + b with z = (x - mean) / deviation, over the m values of a channel, the gradient by the
input for an output gradient g is

    B(g) = w / deviation * P g,   P g = g - mean(g) - z mean(z g).

P is symmetric, so that for a cotangent h the derivative of <h, B(g)> by g is B(h): the same fused
function once more. With c = <h, P g>, p = <z, h>, q = <z, g> and d z / d x = P / deviation it is

    by w:  c / deviation,
    by x:  -w / (m deviation^2) * ((c - 2 p q / m) z + q (h - mean(h)) + p (g - mean(g))).

PyTorch (as of 2.13) computes the same from some thirty passes over tensors of the size of x.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from grokscope.methods.convolutions import without_view


class Statistics(NamedTuple):
    """Of the channels of a batch, as PyTorch's functions take them."""

    mean: Tensor
    inverse_deviation: Tensor
    eps: float


def rewired_batch_norm(node: Any, output: Tensor) -> Tensor | None:
    """The output of BatchNorm on the graph of this file, or None where it cannot be.

    Args:
        node: of PyTorch's own graph, from which the output comes.
        output: what BatchNorm returned.
    """
    x, w, (by_bias, _) = node._saved_input, node._saved_weight, node.next_functions[2]
    if not node._saved_training or not (by_bias is None or hasattr(by_bias, "variable")):
        return None
    mean, inverse_deviation = node._saved_result1.detach(), node._saved_result2.detach()
    if mean.dtype != x.dtype:  # half precision, with statistics in full
        return None
    bias = None if by_bias is None else by_bias.variable
    statistics = Statistics(mean, inverse_deviation, node._saved_eps)
    return _BatchNorm.apply(x, w, bias, (output.detach(), statistics))


class _BatchNorm(Function):
    """y, known, to be differentiated by x, w and b."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor | None,
        bias: Tensor | None,
        rest: tuple[Tensor, Statistics],
    ) -> Tensor:
        output, ctx.statistics = rest
        ctx.save_for_backward(x, w)
        return without_view(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        found = _Gradients.apply(g, x, w, ctx.statistics)
        wanted = zip(found, ctx.needs_input_grad[:3], strict=True)
        return *(gradient if needed else None for gradient, needed in wanted), None


def _gradients(
    g: Tensor, x: Tensor, w: Tensor | None, statistics: Statistics
) -> tuple[Tensor, Tensor, Tensor]:
    """B(g), and of each channel <z, g> and the sum of g."""
    mean, inverse_deviation, eps = statistics
    return torch.ops.aten.native_batch_norm_backward(
        g, x, w, None, None, mean, inverse_deviation, True, eps, [True, True, True]
    )


class _Gradients(Function):
    """B(g), <z, g> and the sum of g: the gradients by x, w and b."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor | None, statistics: Statistics
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _gradients(g, x, w, statistics)
        ctx.statistics = statistics
        ctx.save_for_backward(g, x, w, *found[1:])
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        h, by_w, by_bias = cotangents
        g, x, w, q, total = ctx.saved_tensors
        mean, inverse_deviation, eps = ctx.statistics
        shape, axes = [1, -1, *[1] * (x.ndim - 2)], [0, *range(2, x.ndim)]
        m = x.numel() // x.shape[1]
        if torch.is_grad_enabled():  # the sums once more, for a third derivative
            mean, total = x.mean(axes), g.sum(axes)
            inverse_deviation = (x.var(axes, correction=0) + eps).rsqrt()
            q = inverse_deviation * ((x - mean.view(shape)) * g).sum(axes)
        found_g: Tensor | None = None
        found_x: Tensor | None = None
        found_w: Tensor | None = None
        if h is not None:
            found_g, p, of_h = _Gradients.apply(h, x, w, ctx.statistics)
            # <h, P g>, from sums that the fused functions return besides
            c = (h * g).sum(axes) - of_h * total / m - p * q / m
            found_w = None if w is None else c * inverse_deviation
            factor = -inverse_deviation.square() / m
            factor = factor if w is None else factor * w
            by_x = factor * (c - 2 * p * q / m) * inverse_deviation
            rest = -by_x * mean - factor * (q * of_h + p * total) / m
            by_x, by_h, by_g, rest = (t.view(shape) for t in (by_x, factor * q, factor * p, rest))
            found_x = torch.addcmul(rest, x, by_x).addcmul_(h, by_h).addcmul_(g, by_g)
        if by_w is not None:
            z = (x - mean.view(shape)) * inverse_deviation.view(shape)
            found_g = _sum(found_g, by_w.view(shape) * z)
            scaled = _Gradients.apply(g, x, None, ctx.statistics)[0]
            found_x = _sum(found_x, by_w.view(shape) * scaled)
        if by_bias is not None:
            found_g = _sum(found_g, by_bias.view(shape).expand_as(g))
        return found_g, found_x, found_w, None


def _sum(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one + other
