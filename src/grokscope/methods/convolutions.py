"""Convolutions whose gradients are differentiated at the price of a convolution.

The convolution C(x, w), its gradient I(g, w) by the input and W(g, x) by the kernel are the partial
derivatives of one trilinear form <g, C(x, w)>. So each one's derivatives are the other two:

    of C:                     I(g, w) by x,  W(g, x) by w;
    of I, for a cotangent h:  C(h, w) by g,  W(g, h) by w;
    of W, for a cotangent v:  C(x, v) by g,  I(g, v) by x.

PyTorch (as of 2.13) computes the W of the second line as a convolution with kernels as large as the
feature maps, which takes a CPU some three times as long as the W of the first. Double backward pays
that in every layer. On a graph of the functions here it does not, and the numbers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# stride, padding, dilation, transposed, output_padding, groups, as PyTorch's functions take them
Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]


def gradient_by_input(g: Tensor, x: Tensor, w: Tensor, settings: Settings) -> Tensor:
    """I(g, w); of ``x`` only the shape and the layout matter."""
    found = torch.ops.aten.convolution_backward(g, x, w, None, *settings, [True, False, False])
    return found[0]


def gradient_by_kernel(g: Tensor, x: Tensor, w: Tensor, settings: Settings) -> Tensor:
    """W(g, x); of ``w`` only the shape and the layout matter."""
    found = torch.ops.aten.convolution_backward(g, x, w, None, *settings, [False, True, False])
    return found[1]


def rewired_convolution(node: Any, output: Tensor) -> Tensor | None:
    """The output of a convolution on the graph of this file, or None where it cannot be.

    Args:
        node: of PyTorch's own graph, from which the output comes.
        output: what the convolution returned.
    """
    x, w, (by_bias, _) = node._saved_input, node._saved_weight, node.next_functions[2]
    if not x.requires_grad or not (by_bias is None or hasattr(by_bias, "variable")):
        return None
    settings: Settings = (
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
    )
    # two nodes, each without an edge to what the other differentiates by, so that a gradient by
    # inputs alone runs the one and not the other
    bias = None if by_bias is None else by_bias.variable
    by_kernel = _ByKernel.apply(w, bias, (x, output.detach(), settings))
    return _ByInput.apply(x, by_kernel, (w, settings))


def without_view(output: Tensor) -> Tensor:
    """Another tensor on the same memory: one that activations may still change in place."""
    place = output.storage_offset(), output.shape, output.stride()
    return output.new_empty(0).set_(output.untyped_storage(), *place)


class _ByKernel(Function):
    """C, to be differentiated by kernel and bias."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, bias: Tensor | None, rest: tuple[Tensor, Tensor, Settings]
    ) -> Tensor:
        x, output, ctx.settings = rest
        ctx.save_for_backward(w, x)
        return without_view(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        w, x = ctx.saved_tensors
        by_w, by_bias = ctx.needs_input_grad[:2]
        return (
            _KernelGradient.apply(g, x, (w, ctx.settings)) if by_w else None,
            g.sum([0, *range(2, g.ndim)]) if by_bias else None,
            None,
        )


class _ByInput(Function):
    """C, to be differentiated by its input; to ``_ByKernel`` its gradient passes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, rest: tuple[Tensor, Settings]) -> Tensor:
        w, ctx.settings = rest
        ctx.save_for_backward(w, x)
        return without_view(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        w, x = ctx.saved_tensors
        return _InputGradient.apply(g, w, (x, ctx.settings)), g, None


class _InputGradient(Function):
    """I(g, w)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, rest: tuple[Tensor, Settings]) -> Tensor:
        x, ctx.settings = rest
        ctx.save_for_backward(g, w)
        return gradient_by_input(g, x, w, ctx.settings)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        g, w = ctx.saved_tensors
        by_g, by_w = ctx.needs_input_grad[:2]
        return (
            torch.convolution(h, w, None, *ctx.settings) if by_g else None,
            _KernelGradient.apply(g, h, (w, ctx.settings)) if by_w else None,
            None,
        )


class _KernelGradient(Function):
    """W(g, x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, rest: tuple[Tensor, Settings]) -> Tensor:
        w, ctx.settings = rest
        ctx.save_for_backward(g, x)
        return gradient_by_kernel(g, x, w, ctx.settings)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        g, x = ctx.saved_tensors
        by_g, by_x = ctx.needs_input_grad[:2]
        return (
            torch.convolution(x, v, None, *ctx.settings) if by_g else None,
            _InputGradient.apply(g, v, (x, ctx.settings)) if by_x else None,
            None,
        )
