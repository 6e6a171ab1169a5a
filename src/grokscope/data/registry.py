"""The data sets by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grokscope.arguments import checked_arguments
from grokscope.data import cifar10, emnist, mnist
from grokscope.data.dataset import Dataset, SubsetRule, check_floating
from grokscope.data.digits import load_digits
from grokscope.data.files import DataFiles, FetchedFile
from grokscope.data.modular import load_modular
from grokscope.data.xor import load_xor
from grokscope.shown import shown
from grokscope.spelling import unknown_name

Number = float | Sequence[float]


@shown()
@dataclass(frozen=True)
class DatasetEntry:
    """How a data set is made.

    A loader that takes ``train_size`` splits the data itself; what it does not take, ``load`` does.

    Attributes:
        loader: returns the data set.
        description: what it is, in one line.
        files: what it is read from; None where there is nothing to fetch.
    """

    loader: Callable[..., Dataset]
    description: str
    files: DataFiles | None = None


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        load_digits, "1,797 handwritten digits, 8 x 8, 10 classes; comes with scikit-learn"
    ),
    "mnist": DatasetEntry(
        mnist.load_mnist, "60,000 + 10,000 handwritten digits, 28 x 28, 10 classes", mnist.FILES
    ),
    "emnist": DatasetEntry(
        emnist.load_emnist,
        "EMNIST Balanced: 112,800 + 18,800 characters, 28 x 28, 47 classes",
        emnist.FILES,
    ),
    "cifar10": DatasetEntry(
        cifar10.load_cifar10,
        "50,000 + 10,000 color photographs, 3 x 32 x 32, 10 classes",
        cifar10.FILES,
    ),
    "xor": DatasetEntry(load_xor, "XOR of two signs hidden in noise; generated"),
    "modular": DatasetEntry(load_modular, "a o b mod p for all pairs of residues; generated"),
}


@checked_arguments
def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    classes: Sequence[int] | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    subset: SubsetRule = "first",
    seed: int = 0,
    normalize: tuple[Number, Number] | None = None,
    flatten: bool = True,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Dataset:
    """The data set called ``name``, as tensors on the CPU.

    Args:
        name: one of ``DATASETS``.
        data_dir: a folder that holds the files already; it is searched, never written to, and
            nothing is downloaded. Default: the folder that ``GROKSCOPE_DATA`` names, else the
            cache, into which what is missing is fetched.
        classes: the examples of these classes alone, counted from 0; ``classes[i]`` becomes class
            i. Sizes count what is left. Not for xor and modular. None for all classes.
        train_size: number of training examples; None for all of them, or for the data set's
            default where it has no published split (digits, xor, modular).
        test_size: number of test examples; None for all of them, or for the default of xor.
        subset: which examples: the ``"first"`` of the file, or drawn from ``seed`` (``"seeded"``).
            xor and modular are always drawn from ``seed``.
        seed: decides a seeded subset and everything that is generated.
        normalize: (mean, std): inputs become (x - mean) / std, each a number or one for each
            channel; None leaves pixels in [0, 1].
        flatten: inputs of shape (n, d); False keeps images as (n, channels, height, width).
        dtype: floating-point type of the inputs.
        **options: what the data set takes besides, such as ``modulus`` or ``dimension``.

    Raises:
        DataError: if a file is absent, damaged or cannot be fetched.
        ValueError: if a name is not known, or a size is out of range.

    Example:
        >>> import grokscope as gs
        >>> gs.load_data("digits", train_size=300)
        Dataset('digits': 300 train, 1497 test, inputs (64,) float32, 10 classes, cpu)
    """
    entry = _entry(name)
    check_floating(dtype)
    accepted = inspect.signature(entry.loader).parameters
    shared: dict[str, Any] = {
        "data_dir": data_dir,
        "classes": classes,
        "train_size": train_size,
        "test_size": test_size,
        "subset": subset,
        "seed": seed,
        "dtype": dtype,
    }
    _check_options(name, options, accepted.keys() - shared.keys())
    own = {key: value for key, value in shared.items() if key in accepted and value is not None}
    if classes is not None and entry.files is None and "classes" not in accepted:
        raise ValueError(f"classes is for data sets of pictures: {name} is generated")
    data = entry.loader(**own, **options)
    if classes is not None and "classes" not in accepted:
        data = data.of_classes(classes)
    sizes = {key: shared[key] for key in ("train_size", "test_size") if key not in accepted}
    data = data.subset(**sizes, rule=subset, seed=seed)
    if data.train_x.dtype == torch.uint8:
        data = data.scaled(dtype)
    if normalize is not None:
        data = data.normalized(*normalize)
    return data.flattened() if flatten else data


def fetch(
    name: str, data_dir: str | os.PathLike[str] | None = None, progress: Any = None
) -> list[FetchedFile]:
    """The data set's files, fetched into the cache if need be, verified and read once.

    Args:
        name: one of ``DATASETS``.
        data_dir: check the files in this folder (or in that of ``GROKSCOPE_DATA``) instead.
        progress: an object with ``total`` to set and ``update(num_bytes)``, ``reset()`` and
            ``close()`` to call, as pooch takes it; None shows nothing.

    Returns:
        One entry a file; none where the data set comes with a package or is generated.

    Raises:
        DataError: if a file is absent, damaged or cannot be fetched.
        ValueError: if the name is not known.

    Example:
        >>> from grokscope.data import fetch
        >>> fetch("digits")
        []
    """
    entry = _entry(name)
    if entry.files is None:
        return []
    fetched = entry.files.fetch(data_dir, progress)
    entry.loader(data_dir=data_dir)
    return fetched


def _entry(name: str) -> DatasetEntry:
    if name not in DATASETS:
        raise ValueError(unknown_name("data set", name, DATASETS))
    return DATASETS[name]


def _check_options(name: str, options: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for option in options:
        if option not in known:
            raise ValueError(
                unknown_name(f"option of {name}", option, known)
                if known
                else f"{name} takes no option {option!r}, nor any other besides those of load()"
            )
