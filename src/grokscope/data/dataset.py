"""A data set: inputs and targets for training and test that know what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from grokscope.arguments import check_fields
from grokscope.measures.batches import Batch, batch_size, leaf_name, leaves, map_leaves, rows
from grokscope.measures.inputs import check_numbers
from grokscope.measures.labels import IGNORED, counted
from grokscope.shown import shown
from grokscope.spelling import unknown_name

SubsetRule = Literal["first", "seeded"]


@shown()
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test examples, held in memory.

    Attributes:
        name: what to call the data set in a table.
        train_x: (n, ...) inputs: floating point, int64 for tokens, or uint8 for pixels in 0..255;
            or a tuple, list or dictionary of tensors that share the axis of examples, such as
            token ids and their padding mask, where whole numbers and booleans may be of any type.
        train_y: (n,) int64 class labels, or (n, *t), those of tokens or pixels, where -100 does not
            count; or floating-point targets, (n,) or of several numbers for an example.
        test_x: (m, ...) inputs of the same kind, shape, dtype and device.
        test_y: (m, ...) targets of the same dtype.
        num_classes: number of classes; None where the targets are numbers.
        image_shape: (channels, height, width) where an input is a picture, flattened or not.
        class_names: one name for each class, where the data set has them.
        test_parts: parts of the test data by name, each a mask (m,), whose accuracy ``fit`` records
            besides as ``NAME_accuracy``.
        value_range: lowest and highest value that an input may take, as attacks need to know; None
            where there is no such range, or another one for each channel.

    Raises:
        ValueError: if the tensors disagree with each other or with ``num_classes``.

    Example:
        >>> import grokscope as gs
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> y = torch.tensor([0, 1, 0])
        >>> gs.Dataset("parity", x, y, x[:2], y[:2], num_classes=2)
        Dataset('parity': 3 train, 2 test, inputs (1,) float32, 2 classes, cpu)
    """

    name: str
    train_x: Any
    train_y: Tensor
    test_x: Any
    test_y: Tensor
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] | None = None
    test_parts: Mapping[str, Tensor] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _check_split("train", self.train_x, self.train_y, self.num_classes)
        _check_split("test", self.test_x, self.test_y, self.num_classes)
        _check_halves("x", self.train_x, self.test_x)
        _check_halves("y", self.train_y, self.test_y)
        if self.image_shape is not None:
            shape = self.input_shape("image_shape")
            if math.prod(self.image_shape) != self.num_features:
                raise ValueError(
                    f"image_shape {self.image_shape} has {math.prod(self.image_shape)} pixels, but "
                    f"train_x has {self.num_features} features: shape {(len(self.train_x), *shape)}"
                )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}"
            )
        for name, mask in self.test_parts.items():
            _check_part(name, mask, self.test_y)

    def __repr__(self) -> str:
        targets = "scalar targets" if self.num_classes is None else f"{self.num_classes} classes"
        inputs = ", ".join(
            ("" if key is None else f"{key}: ")
            + f"{tuple(leaf.shape[1:])} {str(leaf.dtype).removeprefix('torch.')}"
            for key, leaf in leaves(self.train_x).items()
        )
        return (
            f"Dataset({self.name!r}: {len(self.train_y)} train, {len(self.test_y)} test, "
            f"inputs {inputs}, {targets}, {self.train_y.device})"
        )

    def _shown(self) -> dict[str, Any]:
        inputs = {
            ("inputs" if key is None else f"inputs {key}"): leaf
            for key, leaf in leaves(self.train_x).items()
        }
        targets = "numbers" if self.num_classes is None else self.num_classes
        return {
            "name": self.name,
            "training examples": len(self.train_y),
            "test examples": len(self.test_y),
            **inputs,
            "classes": targets,
            "device": str(self.train_y.device),
        }

    @property
    def num_features(self) -> int:
        """Numbers in one input, of all its tensors."""
        return sum(math.prod(leaf.shape[1:]) for leaf in leaves(self.train_x).values())

    def input_shape(self, what: str) -> tuple[int, ...]:
        """The shape of an input where it is one tensor.

        Args:
            what: asks for it, for the message.

        Raises:
            TypeError: if inputs have several tensors.
        """
        if isinstance(self.train_x, Tensor):
            return tuple(self.train_x.shape[1:])
        names = ", ".join(map(repr, leaves(self.train_x)))
        raise TypeError(
            f"{what} needs inputs of one tensor: an input of {self.name} has the tensors {names}"
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Dataset:
        """The data set on ``device``, floating-point tensors in ``dtype``; None keeps either."""
        check_floating(dtype)

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return replace(
            self,
            train_x=map_leaves(moved, self.train_x),
            train_y=moved(self.train_y),
            test_x=map_leaves(moved, self.test_x),
            test_y=moved(self.test_y),
            test_parts={name: mask.to(device) for name, mask in self.test_parts.items()},
        )

    def of_classes(self, classes: Sequence[int]) -> Dataset:
        """The examples of some classes alone, in their order; ``classes[i]`` becomes class i.

        Raises:
            ValueError: if ``classes`` are not two or more of the data set's, each once.
        """
        if self.num_classes is None:
            raise ValueError(f"{self.name} has scalar targets and no classes to choose from")
        chosen: dict[str, Any] = {"num_classes": len(classes)}
        for split in ("train", "test"):
            y = getattr(self, f"{split}_y")
            places, labels = class_rows(y, classes, self.num_classes, self.name)
            x = rows(getattr(self, f"{split}_x"), places)
            chosen |= {f"{split}_x": x, f"{split}_y": labels}
            if split == "test":
                chosen["test_parts"] = self._parts_at(places)
        if self.class_names is not None:
            chosen["class_names"] = tuple(self.class_names[index] for index in classes)
        return replace(self, **chosen)

    def subset(
        self,
        train_size: int | None = None,
        test_size: int | None = None,
        rule: SubsetRule = "first",
        seed: int = 0,
    ) -> Dataset:
        """Fewer examples, chosen by a stated rule; None keeps a split whole and in its order.

        ``"first"`` takes the first n. ``"seeded"`` takes the first n of a permutation drawn from
        ``seed``: a larger subset contains the smaller, and the test examples do not depend on
        ``train_size``.
        """
        check_rule(rule)
        generator = torch.Generator().manual_seed(seed)
        chosen: dict[str, Any] = {}
        for split, size in (("train", train_size), ("test", test_size)):
            x, y = getattr(self, f"{split}_x"), getattr(self, f"{split}_y")
            order = torch.randperm(len(y), generator=generator) if rule == "seeded" else None
            if size is None:
                continue
            check_size(f"{split}_size", size, len(y), self.name)
            places = slice(size) if order is None else order[:size].to(y.device)
            chosen |= {f"{split}_x": rows(x, places), f"{split}_y": y[places]}
            if split == "test":
                chosen["test_parts"] = self._parts_at(places)
        return replace(self, **chosen)

    def flattened(self) -> Dataset:
        """The same with inputs of shape (n, d)."""
        self.input_shape("flattened()")
        return replace(self, train_x=self.train_x.flatten(1), test_x=self.test_x.flatten(1))

    def scaled(self, dtype: torch.dtype = torch.float32) -> Dataset:
        """The same with pixels 0..255 (uint8) as floating-point numbers in [0, 1]."""
        check_floating(dtype)
        self.input_shape("scaled()")
        if self.train_x.dtype != torch.uint8:
            raise ValueError(
                f"scaled() turns uint8 pixels into [0, 1]: {self.name} holds {self.train_x.dtype}"
            )
        return replace(
            self,
            train_x=self.train_x.to(dtype) / 255,
            test_x=self.test_x.to(dtype) / 255,
            value_range=(0.0, 1.0),
        )

    def normalized(self, mean: float | Sequence[float], std: float | Sequence[float]) -> Dataset:
        """The same with inputs (x - mean) / std; a sequence has one number for each channel."""
        self.input_shape("normalize")
        if not self.train_x.is_floating_point():
            raise ValueError(
                f"normalize needs floating-point inputs: {self.name} holds {self.train_x.dtype}"
            )
        shift, scale = self._per_channel("mean", mean), self._per_channel("std", std)
        if not bool((scale > 0).all()):
            raise ValueError(f"std must be positive: got {std}")
        shape = self.image_shape or (1, self.num_features, 1)

        def normal(x: Tensor) -> Tensor:
            return ((x.reshape(-1, *shape) - shift) / scale).reshape(x.shape)

        ends = None
        if self.value_range is not None and len(shift) == len(scale) == 1:
            low, high = ((end - float(shift)) / float(scale) for end in self.value_range)
            ends = low, high
        return replace(
            self, train_x=normal(self.train_x), test_x=normal(self.test_x), value_range=ends
        )

    def _parts_at(self, rows: slice | Tensor) -> dict[str, Tensor]:
        """The parts among some of the test examples, without those that hold none of them."""
        parts = {name: mask[rows] for name, mask in self.test_parts.items()}
        return {name: mask for name, mask in parts.items() if bool(mask.any())}

    def _per_channel(self, name: str, value: float | Sequence[float]) -> Tensor:
        channels = 1 if self.image_shape is None else self.image_shape[0]
        entries = value if isinstance(value, Sequence) else [value]
        if any(isinstance(e, bool) or not isinstance(e, int | float) for e in entries):
            raise TypeError(f"normalize must hold a mean and a std, numbers: got {name} {value!r}")
        numbers = torch.as_tensor(value).to(self.train_x).reshape(-1)
        if len(numbers) not in (1, channels) or not bool(torch.isfinite(numbers).all()):
            raise ValueError(
                f"normalize: {name} must be a finite number, or one for each of {channels} "
                f"channel(s) of {self.name}: got {value}"
            )
        return numbers.reshape(-1, 1, 1)


def class_rows(
    y: Int64[Tensor, " n"], classes: Sequence[int], num_classes: int, dataset: str
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Where ``y`` is one of ``classes``, and each one's place among them: its new label."""
    distinct = len(set(classes)) == len(classes) > 1
    if not distinct or any(
        isinstance(index, bool) or not 0 <= index < num_classes for index in classes
    ):
        raise ValueError(
            f"classes must be two or more of the {num_classes} of {dataset}, each once, counted "
            f"from 0: got {list(classes)}"
        )
    if y.ndim > 1:
        raise ValueError(
            f"classes chooses examples by their label: those of {dataset} have {tuple(y.shape[1:])}"
        )
    wanted = y[:, None] == torch.tensor(list(classes), device=y.device)
    rows = wanted.any(1).nonzero()[:, 0]
    return rows, wanted[rows].long().argmax(1)


def check_size(name: str, size: int, available: int, dataset: str) -> None:
    """Raise unless ``size`` is an integer in 1..``available``."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= available:
        raise ValueError(
            f"{name} must be an integer from 1 to {available} for {dataset}: got {size!r}"
        )


def check_floating(dtype: torch.dtype | None) -> None:
    """Raise unless ``dtype`` is a floating-point type or None."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type such as torch.float32: got {dtype}")


def check_rule(rule: str) -> None:
    """Raise unless ``rule`` is a way to choose a subset."""
    if rule not in get_args(SubsetRule):
        raise ValueError(unknown_name("subset rule", rule, get_args(SubsetRule)))


def _check_part(name: str, mask: Tensor, test_y: Tensor) -> None:
    """Raise unless ``mask`` marks some of the test examples and its name leaves columns free."""
    if name in ("train", "test", "probe"):
        raise ValueError(f"test_parts: {name!r} has an accuracy already; give it another name")
    if mask.dtype != torch.bool or mask.shape != test_y.shape[:1] or mask.device != test_y.device:
        raise ValueError(
            f"test_parts[{name!r}] must be a mask over the test examples, bool of shape "
            f"{tuple(test_y.shape[:1])} on {test_y.device}: got {mask.dtype} of shape "
            f"{tuple(mask.shape)} on {mask.device}"
        )
    if not bool(mask.any()):
        raise ValueError(f"test_parts[{name!r}] marks no example: leave it out")


def _check_halves(kind: str, train: Batch, test: Batch) -> None:
    """Raise unless training and test have the same tensors, but for the number of examples."""
    known, other = leaves(train), leaves(test)
    if set(known) != set(other):
        named = [
            ", ".join(map(repr, own)) if None not in own else "one tensor" for own in (known, other)
        ]
        _check_same(kind, "tensors", *named)
    for key, leaf in known.items():
        found = other[key]
        what = "" if key is None else f"{leaf_name(key, kind)}: "
        _check_same(kind, f"{what}dtype", leaf.dtype, found.dtype)
        _check_same(kind, f"{what}device", leaf.device, found.device)
        _check_same(kind, f"{what}feature shape", tuple(leaf.shape[1:]), tuple(found.shape[1:]))


def _check_same(kind: str, what: str, train: object, test: object) -> None:
    if train != test:
        raise ValueError(
            f"train_{kind} and test_{kind} must agree in {kind}: {what}: got {train} and {test}"
        )


def _check_inputs(name: str, x: Batch) -> None:
    """Raise unless ``x`` is one tensor, or several, of one example or more, with numbers in it."""
    if isinstance(x, Tensor) and (x.ndim < 2 or x.numel() == 0):
        raise ValueError(
            f"{name} must have shape (n, ...) with at least one example: got {tuple(x.shape)}"
        )
    if isinstance(x, Tensor) and not (
        x.is_floating_point() or x.dtype in (torch.int64, torch.uint8)
    ):
        raise ValueError(
            f"{name} must be floating point, int64 (tokens) or uint8 (pixels): got {x.dtype}"
        )
    if batch_size(x, name) == 0:
        raise ValueError(f"{name} is empty: give it at least one example")
    check_numbers(x, name)


def _check_split(split: str, x: Batch, y: Tensor, num_classes: int | None) -> None:
    """Raise unless ``x`` and ``y`` are the inputs and targets of the same examples."""
    _check_inputs(f"{split}_x", x)
    n = batch_size(x, f"{split}_x")
    is_column = num_classes is not None and y.shape[1:] == (1,)
    if y.ndim == 0 or len(y) != n or is_column:
        raise ValueError(
            f"{split}_y must have one target for each of the {n} examples of {split}_x, shape "
            f"({n},): got {tuple(y.shape)}"
        )
    for key, leaf in leaves(x).items():
        if leaf.device != y.device:
            raise ValueError(
                f"{leaf_name(key, f'{split}_x')} is on {leaf.device} and {split}_y on {y.device}: "
                "use one device"
            )
    if num_classes is None:
        if not y.is_floating_point():
            raise ValueError(
                f"{split}_y must be floating point where num_classes is None: got {y.dtype}; "
                "pass num_classes for class labels"
            )
    elif y.dtype != torch.int64:
        raise ValueError(f"{split}_y must be int64 class labels: got {y.dtype}")
    else:
        _check_labels(split, y, num_classes)


def _check_labels(split: str, y: Tensor, num_classes: int) -> None:
    """Raise unless labels are classes; those of tokens and pixels may be left out."""
    labels = y if y.ndim == 1 else y[counted(y)]
    if len(labels) == 0:
        raise ValueError(f"{split}_y holds no label but {IGNORED}: none counts")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"{split}_y must lie in 0..{num_classes - 1}: got {int(labels.min())}.."
            f"{int(labels.max())} with num_classes={num_classes}"
        )
