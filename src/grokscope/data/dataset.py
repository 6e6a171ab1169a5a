"""A data set as four tensors that know what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from grokscope.arguments import check_fields
from grokscope.spelling import unknown_name

SubsetRule = Literal["first", "seeded"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test examples, held in memory.

    Attributes:
        name: what to call the data set in a table.
        train_x: (n, ...) inputs: floating point, int64 for tokens, or uint8 for pixels in 0..255.
        train_y: (n,) int64 class labels, or floating-point targets of a scalar-output problem.
        test_x: (m, ...) inputs of the same shape, dtype and device.
        test_y: (m,) targets of the same dtype.
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
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
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
        for kind in ("x", "y"):
            train, test = getattr(self, f"train_{kind}"), getattr(self, f"test_{kind}")
            for what in ("dtype", "device"):
                _check_same(f"{kind}: {what}", getattr(train, what), getattr(test, what))
        _check_same("x: feature shape", tuple(self.train_x.shape[1:]), tuple(self.test_x.shape[1:]))
        if self.image_shape is not None and math.prod(self.image_shape) != self.num_features:
            raise ValueError(
                f"image_shape {self.image_shape} has {math.prod(self.image_shape)} pixels, but "
                f"train_x has {self.num_features} features: shape {tuple(self.train_x.shape)}"
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}"
            )
        for name, mask in self.test_parts.items():
            _check_part(name, mask, self.test_y)

    def __repr__(self) -> str:
        targets = "scalar targets" if self.num_classes is None else f"{self.num_classes} classes"
        dtype = str(self.train_x.dtype).removeprefix("torch.")
        return (
            f"Dataset({self.name!r}: {len(self.train_x)} train, {len(self.test_x)} test, "
            f"inputs {tuple(self.train_x.shape[1:])} {dtype}, {targets}, {self.train_x.device})"
        )

    @property
    def num_features(self) -> int:
        """Numbers in one input."""
        return math.prod(self.train_x.shape[1:])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Dataset:
        """The data set on ``device``, floating-point tensors in ``dtype``; None keeps either."""
        check_floating(dtype)

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return replace(
            self,
            train_x=moved(self.train_x),
            train_y=moved(self.train_y),
            test_x=moved(self.test_x),
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
            rows, labels = class_rows(y, classes, self.num_classes, self.name)
            chosen |= {f"{split}_x": getattr(self, f"{split}_x")[rows], f"{split}_y": labels}
            if split == "test":
                chosen["test_parts"] = self._parts_at(rows)
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
            order = torch.randperm(len(x), generator=generator) if rule == "seeded" else None
            if size is None:
                continue
            check_size(f"{split}_size", size, len(x), self.name)
            rows = slice(size) if order is None else order[:size].to(x.device)
            chosen |= {f"{split}_x": x[rows], f"{split}_y": y[rows]}
            if split == "test":
                chosen["test_parts"] = self._parts_at(rows)
        return replace(self, **chosen)

    def flattened(self) -> Dataset:
        """The same with inputs of shape (n, d)."""
        return replace(self, train_x=self.train_x.flatten(1), test_x=self.test_x.flatten(1))

    def scaled(self, dtype: torch.dtype = torch.float32) -> Dataset:
        """The same with pixels 0..255 (uint8) as floating-point numbers in [0, 1]."""
        check_floating(dtype)
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
    if mask.dtype != torch.bool or mask.shape != test_y.shape or mask.device != test_y.device:
        raise ValueError(
            f"test_parts[{name!r}] must be a mask over the test examples, bool of shape "
            f"{tuple(test_y.shape)} on {test_y.device}: got {mask.dtype} of shape "
            f"{tuple(mask.shape)} on {mask.device}"
        )
    if not bool(mask.any()):
        raise ValueError(f"test_parts[{name!r}] marks no example: leave it out")


def _check_same(what: str, train: object, test: object) -> None:
    if train != test:
        raise ValueError(f"train_x and test_x must agree in {what}: got {train} and {test}")


def _check_split(split: str, x: Tensor, y: Tensor, num_classes: int | None) -> None:
    """Raise unless ``x`` and ``y`` are the inputs and targets of the same examples."""
    for name, tensor in ((f"{split}_x", x), (f"{split}_y", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor: got {type(tensor).__name__}")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"{split}_x must have shape (n, ...) with at least one example: got {tuple(x.shape)}"
        )
    if not (x.is_floating_point() or x.dtype in (torch.int64, torch.uint8)):
        raise ValueError(
            f"{split}_x must be floating point, int64 (tokens) or uint8 (pixels): got {x.dtype}"
        )
    if x.is_floating_point() and not bool(torch.isfinite(x.sum()) or torch.isfinite(x).all()):
        row = int((~torch.isfinite(x.flatten(1))).any(1).nonzero()[0])
        raise ValueError(f"{split}_x holds NaN or infinity: the first such example is row {row}")
    if tuple(y.shape) != (len(x),):
        raise ValueError(
            f"{split}_y must have one target for each of the {len(x)} examples of {split}_x, shape "
            f"({len(x)},): got {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(f"{split}_x is on {x.device} and {split}_y on {y.device}: use one device")
    if num_classes is None:
        if not y.is_floating_point():
            raise ValueError(
                f"{split}_y must be floating point where num_classes is None: got {y.dtype}; "
                "pass num_classes for class labels"
            )
    elif y.dtype != torch.int64:
        raise ValueError(f"{split}_y must be int64 class labels: got {y.dtype}")
    elif int(y.min()) < 0 or int(y.max()) >= num_classes:
        raise ValueError(
            f"{split}_y must lie in 0..{num_classes - 1}: got {int(y.min())}..{int(y.max())} "
            f"with num_classes={num_classes}"
        )
