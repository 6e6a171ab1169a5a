"""The idx format of MNIST and EMNIST: a magic number, the sizes, the bytes.

The magic number is two zero bytes, a type (8: unsigned byte) and the number of axes; one
big-endian 32-bit size for each axis follows, then the values in row-major order.
"""

from __future__ import annotations

import math
import struct

import torch
from jaxtyping import UInt8
from torch import Tensor

from grokscope.data.files import Content
from grokscope.data.labels import class_labels

_UNSIGNED_BYTE = 0x08


def parse_idx(content: Content, num_axes: int) -> UInt8[Tensor, "*shape"]:
    """The array that an idx file of unsigned bytes holds.

    Raises:
        DataError: if the magic number is not that of ``num_axes`` axes of unsigned bytes, or the
            file is longer or shorter than its header says.
    """
    data, header = content.data, 4 + 4 * num_axes
    magic = bytes((0, 0, _UNSIGNED_BYTE, num_axes))
    if data[:4] != magic:
        raise content.error(
            f"starts with 0x{data[:4].hex()}, not the magic number 0x{magic.hex()} of an idx file "
            f"of unsigned bytes with {num_axes} axes"
        )
    if len(data) < header:
        raise content.error(f"ends inside its header, after {len(data)} of {header} bytes")
    shape = struct.unpack(f">{num_axes}I", data[4:header])
    expected = math.prod(shape)
    if len(data) - header != expected:
        raise content.error(
            f"holds {len(data) - header} bytes of values, but its header says "
            f"{' x '.join(map(str, shape))} = {expected}"
        )
    if expected == 0:
        raise content.error("holds no example")
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).reshape(shape)


def declared_size(head: bytes) -> int | None:
    """The length of an idx file by its first bytes; None where they are none of an idx file.

    Example:
        >>> declared_size(bytes([0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 5]))
        27
    """
    if len(head) < 4 or head[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        return None
    header = 4 + 4 * head[3]
    if len(head) < header:
        return None
    return header + math.prod(struct.unpack(f">{head[3]}I", head[4:header]))


def labelled_images(
    images: Content, labels: Content, num_classes: int
) -> tuple[UInt8[Tensor, "n 1 height width"], Tensor]:
    """The images of one idx file and the int64 labels of another."""
    x = parse_idx(images, 3).unsqueeze(1)
    y = class_labels(labels, parse_idx(labels, 1), num_classes)
    if len(x) != len(y):
        raise labels.error(f"holds {len(y)} labels for the {len(x)} images of {images.source}")
    return x, y
