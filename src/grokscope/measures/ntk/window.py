"""Inner products between a convolution's patches, without the patches.

Patches overlap: a pixel stands in one for each place of the kernel. Their inner products are
therefore sums of the same few products between pixels. Where stride is one, the Gram matrix of
pixels costs a kernel's size less to compute than that of patches, and to keep; what is left is
to sum it along its diagonals, one axis of the image after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution.

    Attributes:
        size: of the image.
        kernel: of the kernel.
        low: zeros before the image.
        high: zeros behind it.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int

    @property
    def places(self) -> int:
        """Of the kernel on the padded image."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.low + self.high - reach) // self.stride + 1

    def ranges(self, k: int) -> tuple[slice, slice]:
        """The places whose kernel's entry ``k`` lies on the image, and the pixels it lies on."""
        # the pixel under entry k at place p is p * stride + shift, and -(shift // stride) the least
        # p for which that is not negative
        shift = k * self.dilation - self.low
        first = max(0, -(shift // self.stride))
        last = min(self.places - 1, (self.size - 1 - shift) // self.stride)
        start = first * self.stride + shift
        return slice(first, last + 1), slice(start, last * self.stride + shift + 1, self.stride)


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input.

    Attributes:
        channels: C.
        axes: of the image.
    """

    channels: int
    axes: tuple[Axis, ...]

    @property
    def num_pixels(self) -> int:
        """H W."""
        return prod(axis.size for axis in self.axes)

    @property
    def num_places(self) -> int:
        """S."""
        return prod(axis.places for axis in self.axes)

    @property
    def num_passes(self) -> int:
        """Passes over the Gram matrix of pixels that sum it."""
        return sum(axis.kernel for axis in self.axes)

    def pixels(self, images: Tensor) -> Tensor:
        """(n, C, H, W) as (n, H W, C)."""
        return images.flatten(2).transpose(1, 2)

    def patches(self, pixels: Tensor) -> Tensor:
        """(n, H W, C) as (n, S, I), in the order of a weight's entries (C, *kernel)."""
        x = pixels.transpose(1, 2).unflatten(2, [axis.size for axis in self.axes])
        # F.pad counts axes from the last
        widths = [width for axis in reversed(self.axes) for width in (axis.low, axis.high)]
        x = F.pad(x, widths) if any(widths) else x
        for d, axis in enumerate(self.axes):
            reach = axis.dilation * (axis.kernel - 1) + 1
            # a view, each axis's window behind all others; the flatten below makes the only copy
            x = x.unfold(2 + d, reach, axis.stride)[..., :: axis.dilation]
        spatial = len(self.axes)
        places = range(2, 2 + spatial)
        x = x.permute(0, 1, *range(2 + spatial, 2 + 2 * spatial), *places)
        return x.flatten(1, 1 + spatial).flatten(2).transpose(1, 2)

    def gram(self, one: Tensor, two: Tensor) -> Tensor:
        """Inner products (n1, S, n2, S) of the patches of pixels (n1, H W, C) and (n2, H W, C)."""
        sizes = [axis.size for axis in self.axes]
        # the second side's examples vary fastest, so that shifted blocks are long runs of memory
        columns = two.transpose(0, 1).flatten(0, 1)
        gram = torch.mm(one.flatten(0, 1), columns.T)
        gram = gram.view(len(one), *sizes, *sizes, len(two))
        for d, axis in enumerate(self.axes):
            here, there = 1 + d, 1 + len(self.axes) + d
            shape = list(gram.shape)
            shape[here] = shape[there] = axis.places
            total = gram.new_zeros(shape)
            # sum_k of pixel(place + k) against pixel'(place' + k): both sides move by the same k,
            # so one axis of the kernel is a sum along a diagonal of the Gram matrix, and the axes
            # follow one another; K_1 + K_2 passes in place of K_1 K_2. Padding is left out, being
            # zero.
            for k in range(axis.kernel):
                places, pixels = axis.ranges(k)
                if places.start < places.stop:
                    _at(total, here, there, places).add_(_at(gram, here, there, pixels))
            gram = total
        gram = gram.view(len(one), self.num_places, self.num_places, len(two))
        return gram.transpose(2, 3)


def _at(tensor: Tensor, here: int, there: int, index: slice) -> Tensor:
    """The same part of two axes."""
    chosen = [slice(None)] * tensor.ndim
    chosen[here] = chosen[there] = index
    return tensor[tuple(chosen)]
