"""A data set of one's own in one file: arrays under fixed names, as .npz or .safetensors.

``train_x``, ``train_y``, ``test_x`` and ``test_y``; nothing in it is a pickle. Integer targets are
class labels, counted from 0.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from grokscope.data.dataset import Dataset
from grokscope.data.errors import DataError
from grokscope.measures.batches import Batch
from grokscope.spelling import unknown_name

_MANY = 1_000_000  # classes, more than the vocabularies of language models
PARTS = ("train_x", "train_y", "test_x", "test_y")


def load_file(path: str | Path, dtype: torch.dtype = torch.float32) -> Dataset:
    """The data set in a .npz or .safetensors file, on the CPU.

    Args:
        path: the file.
        dtype: of floating-point inputs and targets.

    Raises:
        DataError: if the file is missing, damaged, of another kind or lacks an array.
        ValueError: if its arrays do not go together; see ``Dataset``.

    Example:
        >>> import numpy as np, tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x, y = np.random.rand(5, 3), np.array([0, 1, 1, 0, 1])
        ...     np.savez(Path(folder) / "mine.npz", train_x=x, train_y=y, test_x=x, test_y=y)
        ...     load_file(Path(folder) / "mine.npz")
        Dataset('mine': 5 train, 5 test, inputs (3,) float32, 2 classes, cpu)
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no data file {path}")
    arrays = _arrays(path)
    for name in PARTS:
        if name not in arrays:
            raise DataError(f"{path} holds no {name}: {unknown_name('array', name, arrays)}")
    try:
        found = dataset_of(path.stem, *(arrays[name] for name in PARTS))
        _check_classes(found)
        return found.to(dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def dataset_of(
    name: str, train_x: Batch, train_y: Tensor, test_x: Batch, test_y: Tensor
) -> Dataset:
    """Bare tensors as a data set; integer targets are classes, counted by the largest."""
    num_classes = None
    if not (train_y.is_floating_point() or test_y.is_floating_point()):
        train_y, test_y = train_y.long(), test_y.long()  # unsigned labels have no maximum
        num_classes = 1 + max((int(y.max()) for y in (train_y, test_y) if len(y)), default=0)
    return Dataset(name, train_x, train_y, test_x, test_y, num_classes)


def _check_classes(found: Dataset) -> None:
    """Raise where integers cannot be meant as classes: a network gets an output for each."""
    classes, count = found.num_classes, found.train_y.numel()
    if classes == 1:
        raise ValueError("train_y and test_y hold class 0 alone: there is nothing to tell apart")
    if classes is not None and classes > max(_MANY, 100 * count):
        raise ValueError(
            f"train_y and test_y hold class {classes - 1:,}, which would be {classes:,} classes "
            f"for {count:,} training labels: count classes from 0, or store floating-point numbers"
        )


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (SafetensorError, zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged, or holds what is no array: {error}") from None
    raise DataError(f"a data file is .npz or .safetensors: got {path}")
