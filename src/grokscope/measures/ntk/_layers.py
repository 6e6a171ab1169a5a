"""How each supported layer splits its weight's gradient into inputs and output cotangents.

For example i, output j and position s (a token, a pixel, a further call of the same module), a
layer that multiplies its weight into its input has the gradient

    df_j(x_i)/dW = sum_s  g_ijs a_is^T,

with ``a`` its input at s (a patch of it for a convolution, a one-hot token for an embedding) and
``g`` the cotangent of its output. A normalization layer has the elementwise
``sum_s g_ijs * a_is`` instead, ``a`` being its normalized input. The classes here turn a call's
recorded input and cotangent into ``a`` (c, S, I) and ``g`` (c, S, O) for c examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BatchAxis:
    """Where a tensor keeps its examples.

    ``fold`` positions share the axis with each example, as after ``x.flatten(0, 1)``;
    ``positions_first`` says that the position, not the example, varies slowest there.
    """

    axis: int
    fold: int = 1
    positions_first: bool = False

    def examples_first(self, tensor: Tensor) -> Tensor:
        """``tensor`` with its examples on axis 0, and folded positions, if any, on axis 1."""
        tensor = tensor.movedim(self.axis, 0)
        if self.fold == 1:
            return tensor
        if self.positions_first:
            return tensor.unflatten(0, (self.fold, -1)).transpose(0, 1)
        return tensor.unflatten(0, (-1, self.fold))


class Layer:
    """What is known of one module; ``family`` says how its weight's gradient is built."""

    family = "outer"
    groups = 1

    def __init__(self, module: Any) -> None:
        self.module = module

    def accepts(self, input_shape: tuple[int, ...], axis: BatchAxis) -> bool:
        """Whether an input of this shape, its examples on this axis, is understood."""
        return True

    def inputs(self, x: Tensor, axis: BatchAxis) -> Tensor:
        """``a`` (c, S, I), or the tokens (c, S) of an embedding."""
        raise NotImplementedError

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        """``g`` (c, S, O)."""
        return _features_last(grad, axis)


class LinearLayer(Layer):
    """``nn.Linear``; every axis but the examples' and the last is a position."""

    def accepts(self, input_shape: tuple[int, ...], axis: BatchAxis) -> bool:
        return axis.axis < len(input_shape) - 1

    def inputs(self, x: Tensor, axis: BatchAxis) -> Tensor:
        return _features_last(x, axis)


class EmbeddingLayer(Layer):
    """``nn.Embedding``; its input to the weight is a one-hot token, kept as the token."""

    family = "lookup"

    def inputs(self, x: Tensor, axis: BatchAxis) -> Tensor:
        return axis.examples_first(x).reshape(_num_examples(x, axis), -1)


class ConvLayer(Layer):
    """``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``; a position is a place of the kernel."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.groups = module.groups

    def accepts(self, input_shape: tuple[int, ...], axis: BatchAxis) -> bool:
        return axis.axis == 0 and len(input_shape) == len(self.module.kernel_size) + 2

    def inputs(self, x: Tensor, axis: BatchAxis) -> Tensor:
        conv, spatial = self.module, len(self.module.kernel_size)
        x = _padded(conv, x)
        for dim in range(spatial):
            span = conv.dilation[dim] * (conv.kernel_size[dim] - 1) + 1
            x = x.unfold(2 + dim, span, conv.stride[dim])[..., :: conv.dilation[dim]]
        # (b, channels, *places, *kernel) -> (b, channels x kernel, places), the order of a weight
        places = list(range(2, 2 + spatial))
        x = x.permute(0, 1, *range(2 + spatial, 2 + 2 * spatial), *places)
        return self.cotangents(x.flatten(1, 1 + spatial), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _channels_last(grad, axis)


class NormLayer(Layer):
    """A normalization layer's scale and shift; ``a`` is the normalized input."""

    family = "scale"

    def inputs(self, x: Tensor, axis: BatchAxis) -> Tensor:
        return self.cotangents(self.normalized(x), axis)

    def normalized(self, x: Tensor) -> Tensor:
        """The layer's output but for its scale and shift."""
        raise NotImplementedError


class LayerNormLayer(NormLayer):
    """``nn.LayerNorm`` and ``nn.RMSNorm``."""

    def accepts(self, input_shape: tuple[int, ...], axis: BatchAxis) -> bool:
        return axis.axis < len(input_shape) - len(self.module.normalized_shape)

    def normalized(self, x: Tensor) -> Tensor:
        norm = F.layer_norm if isinstance(self.module, nn.LayerNorm) else F.rms_norm
        return norm(x, self.module.normalized_shape, eps=self.module.eps)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _features_last(grad.flatten(-len(self.module.normalized_shape)), axis)


class ChannelNormLayer(NormLayer):
    """``nn.GroupNorm``, ``nn.BatchNorm*`` in evaluation mode, ``nn.InstanceNorm*``."""

    def accepts(self, input_shape: tuple[int, ...], axis: BatchAxis) -> bool:
        return axis.axis == 0

    def normalized(self, x: Tensor) -> Tensor:
        norm = self.module
        if isinstance(norm, nn.GroupNorm):
            return F.group_norm(x, norm.num_groups, eps=norm.eps)
        if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
            own = norm.training or not norm.track_running_stats
            return F.instance_norm(
                x, norm.running_mean, norm.running_var, use_input_stats=own, eps=norm.eps
            )
        return F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _channels_last(grad, axis)


_LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv1d: ConvLayer,
    nn.Conv2d: ConvLayer,
    nn.Conv3d: ConvLayer,
    nn.Embedding: EmbeddingLayer,
    nn.LayerNorm: LayerNormLayer,
    nn.RMSNorm: LayerNormLayer,
    nn.GroupNorm: ChannelNormLayer,
    nn.BatchNorm1d: ChannelNormLayer,
    nn.BatchNorm2d: ChannelNormLayer,
    nn.BatchNorm3d: ChannelNormLayer,
    nn.InstanceNorm1d: ChannelNormLayer,
    nn.InstanceNorm2d: ChannelNormLayer,
    nn.InstanceNorm3d: ChannelNormLayer,
}


def layer_of(module: nn.Module) -> Layer | None:
    """The rule for ``module``, or None; a subclass has one only if it inherits ``forward``."""
    if "forward" in vars(module):
        return None
    for kind, layer in _LAYERS.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return layer(module)
    return None


def _num_examples(tensor: Tensor, axis: BatchAxis) -> int:
    return tensor.shape[axis.axis] // axis.fold


def _features_last(tensor: Tensor, axis: BatchAxis) -> Tensor:
    """(…, F) as (c, S, F)."""
    count = _num_examples(tensor, axis)
    return axis.examples_first(tensor).reshape(count, -1, tensor.shape[-1])


def _channels_last(tensor: Tensor, axis: BatchAxis) -> Tensor:
    """(b, F, …) as (c, S, F); the result is a view where that costs no copy."""
    tensor = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
    if axis.fold == 1:
        return tensor.transpose(1, 2)
    count = _num_examples(tensor, axis)
    return axis.examples_first(tensor).transpose(2, 3).reshape(count, -1, tensor.shape[1])


def _padded(conv: Any, x: Tensor) -> Tensor:
    """``x`` as the convolution sees it, with its padding in place."""
    if conv.padding == "valid":
        return x
    widths: list[int] = []
    for dim in reversed(range(len(conv.kernel_size))):
        if conv.padding == "same":
            total = conv.dilation[dim] * (conv.kernel_size[dim] - 1)
            widths += [total // 2, total - total // 2]
        else:
            widths += [conv.padding[dim]] * 2
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, widths, mode=mode) if any(widths) else x
