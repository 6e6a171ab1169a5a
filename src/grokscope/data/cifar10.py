"""CIFAR-10: 50,000 + 10,000 color photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009).

The binary version: each example is one label byte and 3,072 pixel bytes, the red plane, the green
and the blue. The Python version is a pickle, which can run any code when it is read, and is not
read here.
"""

from __future__ import annotations

import os
from itertools import takewhile

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from grokscope.data.dataset import Dataset
from grokscope.data.download import Mirror, RemoteFile
from grokscope.data.files import Content, DataFiles
from grokscope.data.labels import class_labels

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_DIGEST = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_ADDRESSES = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
_ARCHIVE = "cifar-10-binary.tar.gz"
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_IMAGE_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_PICKLE = (
    "is the Python version of CIFAR-10, a pickle, which can run any code when it is read; get the "
    f"binary version instead, {_ADDRESSES[0]}{_ARCHIVE}, or run `grokscope data cifar10`"
)

FILES = DataFiles(
    dataset="cifar10",
    members={name: (name,) for name in (*_TRAIN, _TEST)},
    optional=frozenset(_TRAIN[1:]),  # an excerpt may fit in one batch
    remotes=(
        RemoteFile(_ARCHIVE, tuple(Mirror(f"{place}{_ARCHIVE}", _DIGEST) for place in _ADDRESSES)),
    ),
    prefixes=("cifar10", "cifar-10"),
    nested=("cifar-10-batches-bin",),
    archives=(_ARCHIVE,),
    refused={
        "data_batch_1": _PICKLE,
        "cifar-10-batches-py": _PICKLE,
        "cifar-10-python.tar.gz": _PICKLE,
    },
)


def load_cifar10(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The images as uint8 pixels (n, 3, 32, 32), in the order of the files."""
    files = FILES.read(data_dir)
    batches = list(takewhile(files.__contains__, _TRAIN))
    for name in _TRAIN[len(batches) :]:
        if name in files:
            raise files[name].error(f"has no {_TRAIN[len(batches)]} beside it")
    parts = [parse_records(files[name]) for name in batches]
    test_x, test_y = parse_records(files[_TEST])
    return Dataset(
        "cifar10",
        torch.cat([x for x, _ in parts]),
        torch.cat([y for _, y in parts]),
        test_x,
        test_y,
        num_classes=len(CLASS_NAMES),
        image_shape=_IMAGE_SHAPE,
        class_names=CLASS_NAMES,
    )


def parse_records(content: Content) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    """The images and labels of one file of the binary version.

    Raises:
        DataError: if the file does not hold a whole number of records, or a label is no class.
    """
    if len(content.data) % _RECORD:
        raise content.error(
            f"holds {len(content.data):,} bytes, not a whole number of {_RECORD}-byte records"
        )
    records = torch.frombuffer(bytearray(content.data), dtype=torch.uint8).reshape(-1, _RECORD)
    labels = class_labels(content, records[:, 0], len(CLASS_NAMES))
    return records[:, 1:].reshape(-1, *_IMAGE_SHAPE), labels
