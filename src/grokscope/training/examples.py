"""Inputs and labels from what people have: tensors, a data set, a data loader, dictionaries.

A pair (x, y) is taken whole. Of a ``Dataset`` or ``DataLoader`` the first examples are taken, in
the order of the data set: 256 for a probe, 2,048 for a test, whose accuracy then has a standard
error of at most 1.1 %. An item is (x, y), (x1, x2, ..., y) or a dictionary that holds its labels
under "labels", "label" or "y". ``fit`` takes two of these, whole, as training and test data.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from grokscope import data
from grokscope.measures.batches import Batch, batch_size, concatenated, map_leaves, rows
from grokscope.measures.host_random import host_random_kept
from grokscope.measures.inputs import check_numbers, class_labels
from grokscope.training.evaluation import aligned

PROBE_EXAMPLES = 256
TEST_EXAMPLES = 2048
LABELS = ("labels", "label", "y")
Data = data.Dataset | Sequence[Any]

_TAKEN = (
    "a grokscope.Dataset, (train_x, train_y, test_x, test_y), or (train, test), each a Dataset or "
    "DataLoader of torch or a pair (x, y)"
)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# what holds what draws: a loader's parts, a subset's set, a set's transforms
_HOLDERS = ("sampler", "batch_sampler", "dataset", "transform", "target_transform")


def examples(name: str, source: Any, most: int) -> tuple[Batch, Tensor]:
    """Inputs and labels, one for each; integer labels of any type as int64.

    Args:
        name: "probe" or "test", for messages; of a ``grokscope.Dataset`` which half is meant.
        source: a pair, a dictionary with its labels, a data set or a data loader.
        most: how many examples to take of a data set or a loader.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is empty, has no labels, or not one for each input.

    Example:
        >>> pixels, labels = torch.ones(9, 3), torch.arange(9, dtype=torch.uint8)
        >>> x, y = examples("probe", torch.utils.data.TensorDataset(pixels, labels), 4)
        >>> x.shape, y
        (torch.Size([4, 3]), tensor([0, 1, 2, 3]))
    """
    x: Batch
    if isinstance(source, data.Dataset):
        half = "test" if name == "test" else "train"
        x, y = getattr(source, f"{half}_x"), getattr(source, f"{half}_y")
        return examples(name, (rows(x, slice(0, most)), y[:most]), most)
    if isinstance(source, Mapping | tuple | list):
        x, y = _divided(name, source)
    elif not isinstance(source, str | bytes) and (
        hasattr(source, "__getitem__") or hasattr(source, "__iter__")
    ):
        with _undrawn(source):
            x, y = _first(name, source, most)
    else:
        raise TypeError(
            f"{name} must be (x, y), a dictionary with labels, a Dataset or a DataLoader: got "
            f"{type(source).__name__}"
        )
    size = batch_size(x, name)
    if size == 0:
        raise ValueError(f"{name} is empty: give it at least one example")
    check_numbers(x, name)
    if y.ndim == 0 or len(y) != size:
        labels = len(y) if y.ndim else "one number as"
        raise ValueError(f"{name} holds {size} inputs but {labels} labels; give one for each")
    return map_leaves(lambda leaf: aligned(leaf.detach()), x), class_labels(y.detach())


def data_of(given: Any, name: str = "data") -> data.Dataset:
    """A data set as it is, or one of bare tensors, of data sets or of loaders.

    Args:
        given: what ``fit`` takes as its data.
        name: what to call the data set.

    Raises:
        TypeError: if it is nothing that holds training and test data.
        ValueError: if it has no labels, no examples, or training and test data differ in kind.

    Example:
        >>> x = {"ids": torch.tensor([[4, 2], [1, 0]]), "mask": torch.tensor([[1, 1], [1, 0]])}
        >>> data_of((x, torch.tensor([0, 1]), x, torch.tensor([0, 1])))
        Dataset('data': 2 train, 2 test, inputs ids: (2,) int64, mask: (2,) int64, 2 classes, cpu)
    """
    if isinstance(given, data.Dataset):
        return given
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"data must be {_TAKEN}: got {type(given).__name__}")
    if len(given) == 2 and not isinstance(given[0], Tensor | np.ndarray):
        halves = [
            examples(f"{name} ({half})", source, sys.maxsize)
            for half, source in zip(("train", "test"), given, strict=True)
        ]
        return data.dataset_of(name, *halves[0], *halves[1])
    if len(given) != 4:
        raise ValueError(f"data must be {_TAKEN}: got {len(given)} tensors")
    train_x, test_x = (_tensors(given[place]) for place in (0, 2))
    train_y, test_y = (class_labels(_label_tensor(name, given[place])) for place in (1, 3))
    return data.dataset_of(name, train_x, train_y, test_x, test_y)


def _divided(name: str, batch: Any) -> tuple[Batch, Tensor]:
    """Inputs and labels of one batch."""
    if isinstance(batch, Mapping):
        key = next((key for key in LABELS if key in batch), None)
        if key is None:
            raise ValueError(
                f"{name} has no labels: a dictionary holds them under "
                f"{', '.join(map(repr, LABELS))}; it has {', '.join(map(repr, batch))}"
            )
        x: Any = {other: batch[other] for other in batch if other != key}
        y = batch[key]
    elif isinstance(batch, tuple | list) and len(batch) >= 2:
        *inputs, y = batch
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
    else:
        kind = type(batch).__name__
        raise ValueError(f"{name} has no labels: expected (x, y) or a dictionary, got {kind}")
    return _tensors(x), _label_tensor(name, y)


def moved_to(pair: tuple[Batch, Tensor], place: Tensor) -> tuple[Batch, Tensor]:
    """Examples on the device of ``place``, and floating-point inputs in its precision."""

    def moved(leaf: Tensor) -> Tensor:
        floating = place.is_floating_point() and leaf.is_floating_point()
        return leaf.to(place) if floating else leaf.to(place.device)

    return map_leaves(moved, pair[0]), pair[1].to(place.device)


def _label_tensor(name: str, y: Any) -> Tensor:
    """Labels as a tensor, also from an array or a list of numbers."""
    if isinstance(y, np.ndarray | list):
        y = torch.as_tensor(y)
    if not isinstance(y, Tensor):
        raise TypeError(f"the labels of {name} must be a tensor: got {type(y).__name__}")
    return y


def _tensors(x: Any) -> Any:
    """NumPy arrays as tensors, also within a batch; all else as it is."""
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x)
    if isinstance(x, Mapping):
        return {key: _tensors(value) for key, value in x.items()}
    if isinstance(x, tuple | list) and any(isinstance(value, np.ndarray) for value in x):
        return tuple(_tensors(value) for value in x)
    return x


def _first(name: str, source: Any, most: int) -> tuple[Batch, Tensor]:
    """The first examples of a data set or loader."""
    collate = source.collate_fn if isinstance(source, DataLoader) else default_collate
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    # A loader is run where it alone knows which examples are its own. Else its data set is read in
    # order: no worker starts, and shuffling has no say.
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    read = indexed and not isinstance(dataset, IterableDataset) and collate is not None
    if read and (not isinstance(source, DataLoader) or _gives_all(source)):
        count = min(most, len(dataset))
        if count == 0:
            raise ValueError(f"{name} is empty: give it at least one example")
        return _divided(name, collate([dataset[index] for index in range(count)]))
    parts: list[tuple[Batch, Tensor]] = []
    missing = most
    for item in source:
        batch = item if isinstance(source, DataLoader) else default_collate([item])
        x, y = _divided(name, batch)
        parts.append((x, y))
        missing -= len(y)
        if missing <= 0:
            break
    if not parts:
        raise ValueError(f"{name} is empty: give it at least one example")
    try:
        x, y = concatenated([x for x, _ in parts]), torch.cat([y for _, y in parts])
    except RuntimeError as error:
        raise ValueError(
            f"{name}: batches of different shapes cannot be joined ({error}); pass one batch as "
            "(x, y), padded to one length"
        ) from error
    return rows(x, slice(0, most)), y[:most]


def _gives_all(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives each example of its data set once: all that a sampler decides is when.

    The processes of a ``DistributedSampler`` do so together.
    """
    batches, sampler = loader.batch_sampler, loader.sampler
    count = len(loader.dataset)  # type: ignore[arg-type]
    if batches is not None and getattr(batches, "sampler", None) is not sampler:
        return False  # batches of one's own, beside which PyTorch puts a sampler that has no say
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == count
    return isinstance(sampler, DistributedSampler) or (
        isinstance(sampler, SequentialSampler) and len(sampler) == count
    )


@contextmanager
def _undrawn(source: Any) -> Iterator[None]:
    """Leave the global generators and those that a loader and its data set hold as they were."""
    restores = [_restoring(generator) for generator in _generators(source)]
    try:
        with host_random_kept():
            yield
    finally:
        for restore in restores:
            restore()


def _generators(source: Any) -> list[Any]:
    """The random generators in attributes of a loader, its sampler and its data sets."""
    found: dict[int, Any] = {}
    waiting, seen = [source], set()
    while waiting:
        holder = waiting.pop()
        seen.add(id(holder))
        for name, value in getattr(holder, "__dict__", {}).items():
            if isinstance(value, _GENERATORS):
                found[id(value)] = value
            elif name in _HOLDERS and id(value) not in seen:
                waiting.append(value)
    return list(found.values())


def _restoring(generator: Any) -> Callable[[], None]:
    """A function that puts a generator back where it is now."""
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())
