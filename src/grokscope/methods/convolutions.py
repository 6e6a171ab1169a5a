"""Convolutions whose gradients are differentiated at the price of a convolution.

The convolution C(x, w), its gradient I(g, w) by the input and W(g, x) by the kernel are the partial
derivatives of one trilinear form <g, C(x, w)>. So each one's derivatives are the other two:

    of C:                     I(g, w) by x,  W(g, x) by w;
    of I, for a cotangent h:  C(h, w) by g,  W(g, h) by w;
    of W, for a cotangent v:  C(x, v) by g,  I(g, v) by x.

PyTorch (as of 2.13) computes the W of the second line as a convolution with kernels as large as the
feature maps, which takes a CPU some three times as long as the W of the first. Double backward pays
that in every layer. Hooks put the outputs of a model's convolutions on a graph of the functions
here instead, whose numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from grokscope.measures.chain import ObservingHook

# stride, padding, dilation, transposed, output_padding, groups, as PyTorch's functions take them
Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def gradient_by_input(g: Tensor, x: Tensor, w: Tensor, settings: Settings) -> Tensor:
    """I(g, w); of ``x`` only the shape and the layout matter."""
    found = torch.ops.aten.convolution_backward(g, x, w, None, *settings, [True, False, False])
    return found[0]


def gradient_by_kernel(g: Tensor, x: Tensor, w: Tensor, settings: Settings) -> Tensor:
    """W(g, x); of ``w`` only the shape and the layout matter."""
    found = torch.ops.aten.convolution_backward(g, x, w, None, *settings, [False, True, False])
    return found[1]


@contextmanager
def cheap_second_derivatives(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put convolutions that run inside on the graph of this file."""
    layers = [layer for model in models for layer in convolutions_of(model)]
    handles = [layer.register_forward_hook(OnConvolution()) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def convolutions_of(model: nn.Module) -> list[nn.Module]:
    """The convolutions of a model, each once."""
    return [layer for layer in model.modules() if isinstance(layer, CONVOLUTIONS)]


@dataclass(frozen=True)
class OnConvolution(ObservingHook):
    """A forward hook that gives a convolution's output, as it is, a graph of this file.

    An output that is not the convolution's own, as behind another hook, keeps its graph.

    Attributes:
        wanted: whether it should now; always if None.
    """

    wanted: Callable[[], bool] | None = None

    def __call__(self, _layer: nn.Module, _args: tuple[Any, ...], output: Any) -> Tensor | None:
        """The output with another graph, or None to keep its own."""
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return None
        if self.wanted is not None and not self.wanted():
            return None
        node: Any = output.grad_fn
        if node is None or node.name() != "ConvolutionBackward0" or not _is_held(node):
            return None
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


def _is_held(node: Any) -> bool:
    """Whether a node holds the tensors it saved, rather than what a checkpoint packed them into."""
    try:
        # a saved tensor takes hooks only once
        node._raw_saved_input.register_hooks(_same, _same)
    except RuntimeError:
        return False
    return True


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _without_view(output: Tensor) -> Tensor:
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
        return _without_view(output)

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
        return _without_view(output)

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
