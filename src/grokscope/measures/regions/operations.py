"""Which operations are affine, which are piecewise affine and where their kinks are.

All others are refused. ``ReLU`` has its kink at zero, hard tanh at both its ends, a pooling window
where its largest entry changes. `kinks` describes them by functions whose zero sets they are.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Breakpoints:
    """Each unit of the input has a kink where it crosses one of ``at``."""

    at: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """The largest entry of each window of a grid: max-pooling."""

    dims: int
    arguments: dict[str, Any]
    adaptive: bool = False


@dataclass(frozen=True)
class Pair:
    """The larger, or smaller, of two tensors, entry by entry."""

    smaller: bool = False


Nonlinearity = Breakpoints | Window | Pair

AFFINE_MODULES = (
    nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d,
    nn.CircularPad1d, nn.CircularPad2d,
    nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Fold, nn.Unfold,
)  # fmt: skip

# Affine in all their tensors together.
SUMS: set[Any] = {
    operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.subtract,
    torch.rsub, torch.cat, torch.concat, torch.stack,
    "add", "add_", "sub", "sub_",
}  # fmt: skip

# Affine if at most one of their tensors depends on the input.
PRODUCTS: set[Any] = {
    operator.mul, operator.imul, operator.matmul, torch.mul, torch.multiply, torch.matmul,
    torch.mm, torch.bmm, "mul", "mul_", "matmul", "mm", "bmm",
}  # fmt: skip

# Affine in their first argument if no other depends on the input.
FIRST: set[Any] = {
    operator.truediv, operator.itruediv, torch.div, torch.true_divide, "div", "div_",
    operator.neg, torch.neg, "neg", operator.getitem, operator.pos,
    F.linear, F.conv1d, F.conv2d, F.conv3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.dropout, F.pad, F.interpolate, F.unfold, F.fold,
    F.pixel_shuffle, F.pixel_unshuffle,
    torch.mean, torch.sum, "mean", "sum",
    torch.flatten, "flatten", torch.reshape, "reshape", "view", torch.permute, "permute",
    torch.transpose, "transpose", torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze",
    torch.unflatten, "unflatten", torch.movedim, "movedim", torch.flip, "flip", torch.roll, "roll",
    torch.chunk, "chunk", torch.split, "split", torch.unbind, "unbind", "narrow", torch.narrow,
    "expand", "repeat", "contiguous", "clone", torch.clone, "double", "select", torch.select,
}  # fmt: skip

# Read the shape and not the values.
SHAPES: set[Any] = {"size", "dim", "ndimension", "numel", "nelement", torch.numel, len}
SHAPE_ATTRIBUTES = {"shape", "ndim", "dtype", "device"}


def hard_sigmoid(x: Tensor) -> Tensor:
    """Hard sigmoid in full precision; that of torch has its slope, 1/6, in float32."""
    return (x / 6 + 0.5).clamp(0, 1)


# What to call instead of an in-place operation, which would overwrite a value still needed.
INSTEAD: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub,
    operator.imul: operator.mul, operator.itruediv: operator.truediv,
    "add_": "add", "sub_": "sub", "mul_": "mul", "div_": "div",
    "relu_": "relu", "abs_": "abs", "clamp_": "clamp", "clip_": "clip",
    "clamp_min_": "clamp_min", "clamp_max_": "clamp_max",
    torch.relu_: torch.relu, F.relu_: torch.relu, F.leaky_relu_: F.leaky_relu,
    F.hardtanh_: F.hardtanh, F.hardsigmoid: hard_sigmoid,
}  # fmt: skip
INSTEAD_OF_MODULE: dict[type[nn.Module], Any] = {nn.Hardsigmoid: hard_sigmoid}

_POOLS: dict[Any, tuple[int, bool]] = {
    F.max_pool1d: (1, False), F.max_pool2d: (2, False), F.max_pool3d: (3, False),
    torch.max_pool1d: (1, False), torch.max_pool2d: (2, False), torch.max_pool3d: (3, False),
    F.adaptive_max_pool1d: (1, True), F.adaptive_max_pool2d: (2, True),
    F.adaptive_max_pool3d: (3, True),
}  # fmt: skip
_POOL_MODULES: dict[type[nn.Module], tuple[int, bool]] = {
    nn.MaxPool1d: (1, False), nn.MaxPool2d: (2, False), nn.MaxPool3d: (3, False),
    nn.AdaptiveMaxPool1d: (1, True), nn.AdaptiveMaxPool2d: (2, True),
    nn.AdaptiveMaxPool3d: (3, True),
}  # fmt: skip
_ZERO_KINK = {
    F.relu, torch.relu, "relu", F.leaky_relu, F.prelu, torch.prelu, "prelu",
    torch.abs, "abs", operator.abs, F.rrelu,
}  # fmt: skip


def module_kinks(module: nn.Module) -> Nonlinearity | None:
    """Where a module of torch.nn has kinks, or None where it is not one of those known."""
    if isinstance(module, nn.ReLU6 | nn.Hardtanh):
        return Breakpoints((float(module.min_val), float(module.max_val)))
    if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU | nn.RReLU):
        return Breakpoints((0.0,))
    if isinstance(module, nn.Hardsigmoid):
        return Breakpoints((-3.0, 3.0))
    if isinstance(module, nn.Softshrink):
        return Breakpoints((-float(module.lambd), float(module.lambd)))
    for kind, (dims, adaptive) in _POOL_MODULES.items():
        if isinstance(module, kind) and not module.return_indices:
            names = ["output_size"] if adaptive else _WINDOW_ARGUMENTS
            return Window(dims, {name: getattr(module, name) for name in names}, adaptive)
    return None


_WINDOW_ARGUMENTS = ["kernel_size", "stride", "padding", "dilation", "ceil_mode"]


def function_kinks(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Nonlinearity | None:
    """Where a call of a function, or of a tensor's method by name, has kinks.

    ``args[0]`` is the tensor.
    """
    if target in _ZERO_KINK:
        return Breakpoints((0.0,))
    if target is F.relu6:
        return Breakpoints((0.0, 6.0))
    if target is hard_sigmoid:
        return Breakpoints((-3.0, 3.0))
    if target is F.hardtanh:
        given = _named(["min_val", "max_val"], args, kwargs, {"min_val": -1.0, "max_val": 1.0})
        return Breakpoints((float(given["min_val"]), float(given["max_val"])))
    if target is F.softshrink:
        width = float(_named(["lambd"], args, kwargs, {"lambd": 0.5})["lambd"])
        return Breakpoints((-width, width))
    if target in (torch.clamp, torch.clip, "clamp", "clip"):
        given = _named(["min", "max"], args, kwargs, {"min": None, "max": None})
        return _between(given["min"], given["max"])
    if target in (torch.clamp_min, "clamp_min"):
        return _between(_named(["min"], args, kwargs, {})["min"], None)
    if target in (torch.clamp_max, "clamp_max"):
        return _between(None, _named(["max"], args, kwargs, {})["max"])
    if target in _POOLS:
        dims, adaptive = _POOLS[target]
        if adaptive:
            return Window(dims, _named(["output_size"], args, kwargs, {}), True)
        defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
        return Window(dims, _named(_WINDOW_ARGUMENTS, args, kwargs, defaults))
    return None


def _between(low: Any, high: Any) -> Breakpoints | None:
    ends = [end for end in (low, high) if end is not None]
    if not all(isinstance(end, int | float) for end in ends):
        return None
    return Breakpoints(tuple(float(end) for end in ends))


def _named(
    names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, Any]:
    """The arguments after the tensor, by name."""
    given = dict(zip(names, args[1:], strict=False))
    return {name: given.get(name, kwargs.get(name, defaults.get(name))) for name in names}


def pair_kinks(target: Any) -> Pair | None:
    """Which call with two tensors is their maximum or minimum."""
    if target in (torch.maximum, "maximum", torch.max, "max"):
        return Pair()
    if target in (torch.minimum, "minimum", torch.min, "min"):
        return Pair(smaller=True)
    return None


def window_members(window: Window, shape: Sequence[int]) -> Tensor:
    """(W, K), the flat indices of the entries of each pooling window; -1 fills short windows.

    Windows are numbered as the entries of the flattened output, and ``shape`` is the input's
    (channels, *grid) without the batch axis.
    """
    channels, size = shape[: -window.dims], shape[-window.dims :]
    spans = [_spans(window, axis, size[axis]) for axis in range(window.dims)]
    grid = torch.arange(math.prod(size), device="cpu").reshape(*size)
    windows = [
        grid[tuple(torch.meshgrid(*index, indexing="ij"))].flatten() for index in product(*spans)
    ]
    longest = max(len(members) for members in windows)
    one = torch.full((len(windows), longest), -1, device="cpu")
    for row, members in zip(one, windows, strict=True):
        row[: len(members)] = members
    offset = torch.arange(math.prod(channels), device="cpu") * grid.numel()
    several = one + offset[:, None, None]
    return torch.where(one < 0, -1, several).reshape(-1, longest)


def _spans(window: Window, axis: int, size: int) -> list[Tensor]:
    """For each output position along one axis, the input positions that its window covers."""

    def along(name: str) -> int:
        value = window.arguments[name]
        return value if isinstance(value, int) else value[axis]

    if window.adaptive:
        value = window.arguments["output_size"]
        count = value if isinstance(value, int) else value[axis]
        count = size if count is None else count
        return [
            torch.arange(i * size // count, -((-(i + 1) * size) // count), device="cpu")
            for i in range(count)
        ]
    kernel, padding, dilation = along("kernel_size"), along("padding"), along("dilation")
    stride = along("stride") if window.arguments["stride"] not in (None, []) else kernel
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = room // stride + 1
    if window.arguments["ceil_mode"]:
        count = -(-room // stride) + 1
        # A window that would start in the padding on the right is left out.
        count -= (count - 1) * stride >= size + padding
    taps = dilation * torch.arange(kernel, device="cpu")
    positions = [i * stride - padding + taps for i in range(count)]
    return [span[(span >= 0) & (span < size)] for span in positions]
