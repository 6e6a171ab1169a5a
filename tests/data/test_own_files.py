"""Mistakes in a data file of one's own are told with the file and the array."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.data import load_file

RIGHT: dict[str, Any] = {
    "train_x": np.random.default_rng(0).random((6, 3), dtype=np.float32),
    "train_y": np.array([0, 1, 2, 0, 1, 2]),
    "test_x": np.ones((2, 3), dtype=np.float32),
    "test_y": np.array([1, 0]),
}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no test examples": (
        {"test_x": np.ones((0, 3), dtype=np.float32), "test_y": np.zeros(0, dtype=np.int64)},
        r"test_x must have shape \(n, ...\) with at least one example: got \(0, 3\)",
    ),
    "not a number": (
        {"train_x": np.full((6, 3), np.nan, dtype=np.float32)},
        r"train_x holds NaN or infinity: the first such example is train_x\[0\]",
    ),
    "another length": ({"train_y": np.arange(5) % 3}, "train_y must have one target for each of"),
    "another type": ({"test_x": np.ones((2, 3))}, "train_x and test_x must agree in x: dtype"),
    "one class": (
        {"train_y": np.zeros(6, dtype=np.int64), "test_y": np.zeros(2, dtype=np.int64)},
        "train_y and test_y hold class 0 alone",
    ),
    "numbers that name examples": (
        {"train_y": np.arange(6) + 10**9},
        "train_y and test_y hold class 1,000,000,005, which would be 1,000,000,006 classes",
    ),
}


@pytest.mark.parametrize(("changed", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_the_file(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **(RIGHT | changed))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {said}"):
        load_file(path)


def test_labels_that_leave_a_class_out_are_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **(RIGHT | {"train_y": np.array([0, 7, 7, 0, 7, 0])}))
    assert load_file(tmp_path / "mine.npz").num_classes == 8


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", "bool"])
def test_labels_are_integers_of_any_type(tmp_path: Path, kind: str) -> None:
    labels = {name: (RIGHT[name] % 2).astype(kind) for name in ("train_y", "test_y")}
    np.savez(tmp_path / "mine.npz", **(RIGHT | labels))
    data = load_file(tmp_path / "mine.npz")
    assert data.num_classes == 2
    assert data.train_y.tolist() == [0, 1, 0, 0, 1, 0]
