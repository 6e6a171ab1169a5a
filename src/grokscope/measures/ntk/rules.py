"""How each operation with a weight splits the weight's gradient into inputs and cotangents.

For example i, output j and position s (a token, a pixel, a time step, a further call with the same
weight), an operation that multiplies its weight into its input has the gradient

    df_j(x_i)/dW = sum_s  g_ijs a_is^T,

with ``a`` its input at s (a patch of it for a convolution, a one-hot token for an embedding) and
``g`` the cotangent of its output. A normalization has the elementwise ``sum_s g_ijs * a_is``
instead, ``a`` being its normalized input. A rule turns a call's input and cotangent into ``a``
(c, S, I) and ``g`` (c, S, O) for c examples.

Calls are seen as functions (``F.linear``, ``F.conv2d``, ...) and not as modules: so the rules hold
for PyTorch's layers, for Hugging Face's ``Conv1D`` and for a forward that multiplies by a parameter
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
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


class Rule:
    """One call of an operation, and how its weight's gradient is built.

    Attributes:
        family: "outer" for products of inputs and cotangents, "lookup" where the inputs are
            tokens, "scale" for elementwise weights.
        input: what the weight met.
        weight, bias: the parameters, or whatever else stood in their place.
        groups: blocks of the weight that meet blocks of the input.
        transposed: the weight is kept as (I, O), and not as (O, I).
        padding: the token whose row is never trained.
    """

    family = "outer"
    groups = 1
    transposed = False
    padding: int | None = None

    def __init__(self, input: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> None:
        self.input = input
        self.weight = weight
        self.bias = bias

    @property
    def key(self) -> tuple[type[Rule], int, int]:
        """What must agree between two calls for one to stand for the other."""
        # what a parametrization or a weight norm computes is another tensor at each call
        ids = [id(w) if isinstance(w, nn.Parameter) else 0 for w in (self.weight, self.bias)]
        return type(self), ids[0], ids[1]

    def accepts(self, axis: BatchAxis) -> bool:
        """Whether an input of this shape, its examples on this axis, is understood."""
        return True

    def inputs(self, axis: BatchAxis) -> Tensor:
        """``a`` (c, S, I), or the tokens (c, S) of an embedding."""
        raise NotImplementedError

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        """``g`` (c, S, O)."""
        return _features_last(grad, axis)


class LinearRule(Rule):
    """A matrix product; every axis but the examples' and the last is a position."""

    def __init__(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
    ) -> None:
        super().__init__(input, weight, bias)
        self.transposed = transposed

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis < self.input.ndim - 1

    def inputs(self, axis: BatchAxis) -> Tensor:
        return _features_last(self.input, axis)


class EmbeddingRule(Rule):
    """A look-up in a table; its input to the weight is a one-hot token, kept as the token."""

    family = "lookup"

    def __init__(self, input: Tensor, weight: Tensor, padding: int | None) -> None:
        super().__init__(input, weight)
        self.padding = padding if padding is None or padding >= 0 else padding + len(weight)

    def inputs(self, axis: BatchAxis) -> Tensor:
        return axis.examples_first(self.input).reshape(_num_examples(self.input, axis), -1)


class ConvRule(Rule):
    """A convolution; a position is a place of the kernel."""

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(input, weight, bias)
        self.groups = groups
        self._kernel = tuple(weight.shape[2:])
        self._stride = self._per_axis(stride)
        self._dilation = self._per_axis(dilation)
        self._padding = padding if isinstance(padding, str) else self._per_axis(padding)

    def _per_axis(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * len(self._kernel) if len(values) == 1 else values

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis == 0 and self.input.ndim == len(self._kernel) + 2

    def inputs(self, axis: BatchAxis) -> Tensor:
        x, spatial = self._padded(), len(self._kernel)
        for dim, (size, stride, dilation) in enumerate(
            zip(self._kernel, self._stride, self._dilation, strict=True)
        ):
            x = x.unfold(2 + dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
        # (b, channels, *places, *kernel) -> (b, channels x kernel, places), the order of a weight
        places = list(range(2, 2 + spatial))
        x = x.permute(0, 1, *range(2 + spatial, 2 + 2 * spatial), *places)
        return self.cotangents(x.flatten(1, 1 + spatial), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _channels_last(grad, axis)

    def _padded(self) -> Tensor:
        """The input with zeros around it, as the convolution sees it."""
        if self._padding == "valid":
            return self.input
        widths: list[int] = []
        for dim in reversed(range(len(self._kernel))):  # F.pad begins at the last axis
            if isinstance(self._padding, str):
                total = self._dilation[dim] * (self._kernel[dim] - 1)
                widths += [total // 2, total - total // 2]
            else:
                widths += [self._padding[dim]] * 2
        return F.pad(self.input, widths) if any(widths) else self.input


class LayerNormRule(Rule):
    """Scale and shift of a normalization over the last axes; ``normalized`` has neither."""

    family = "scale"

    def __init__(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        axes: int,
        normalized: Callable[[], Tensor],
    ) -> None:
        super().__init__(input, weight, bias)
        self._axes = axes
        self._normalized = normalized

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis < self.input.ndim - self._axes

    def inputs(self, axis: BatchAxis) -> Tensor:
        return self.cotangents(self._normalized(), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _features_last(grad.flatten(-self._axes), axis)


class ChannelNormRule(Rule):
    """Scale and shift of a normalization with a number for each channel, on axis 1."""

    family = "scale"

    def __init__(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        normalized: Callable[[], Tensor],
    ) -> None:
        super().__init__(input, weight, bias)
        self._normalized = normalized

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis == 0

    def inputs(self, axis: BatchAxis) -> Tensor:
        return self.cotangents(self._normalized(), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _channels_last(grad, axis)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, beta: Any = 1, alpha: Any = 1) -> Rule | None:
    """``bias + x W``, as in Hugging Face's ``Conv1D``."""
    if beta != 1 or alpha != 1 or input.ndim != 1:
        return None
    return LinearRule(mat1, mat2, input, transposed=True)


def _matmul(input: Tensor, other: Tensor) -> Rule | None:
    return LinearRule(input, other, transposed=True) if other.ndim == 2 else None


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> Rule:
    return EmbeddingRule(input, weight, padding_idx)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Rule:
    x = input.detach()
    return LayerNormRule(
        input,
        weight,
        bias,
        len(normalized_shape),
        lambda: F.layer_norm(x, normalized_shape, eps=eps),
    )


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Rule:
    x = input.detach()
    return LayerNormRule(
        input, weight, None, len(normalized_shape), lambda: F.rms_norm(x, normalized_shape, eps=eps)
    )


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Rule:
    x = input.detach()
    return ChannelNormRule(input, weight, bias, lambda: F.group_norm(x, num_groups, eps=eps))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Rule | None:
    if training:
        return None
    x = input.detach()
    return ChannelNormRule(
        input, weight, bias, lambda: F.batch_norm(x, running_mean, running_var, eps=eps)
    )


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Rule:
    x = input.detach()
    return ChannelNormRule(
        input,
        weight,
        bias,
        lambda: F.instance_norm(
            x, running_mean, running_var, use_input_stats=use_input_stats, eps=eps
        ),
    )


RULES: dict[Any, Callable[..., Rule | None]] = {
    F.linear: LinearRule,
    torch.addmm: _addmm,
    torch.mm: _matmul,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    F.conv1d: ConvRule,
    F.conv2d: ConvRule,
    F.conv3d: ConvRule,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
}


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
