"""The 1,797 handwritten digits of 8 x 8 grey pixels that come with scikit-learn.

They are the test half of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin &
Kaynak 1998); each pixel counts the dark ones of a 4 x 4 block, 0 to 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grokscope.data.dataset import Dataset, SubsetRule, check_rule, check_size, class_rows


def load_digits(
    train_size: int = 300,
    subset: SubsetRule = "first",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    classes: Sequence[int] = range(10),
) -> Dataset:
    """The digits in [0, 1], (n, 1, 8, 8): ``train_size`` to train on, the rest for test.

    There is no published split. ``subset="first"`` trains on the first examples, which hold the
    classes in almost equal numbers; ``"seeded"`` permutes them all first.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    check_rule(subset)
    bunch = sklearn_digits()
    rows, y = class_rows(torch.from_numpy(bunch.target).long(), classes, 10, "digits")
    total = len(y)
    check_size("train_size", train_size, total - 1, "digits, which tests on the rest")
    x = torch.from_numpy(bunch.images)[rows].to(dtype).unsqueeze(1) / 16
    if subset == "seeded":
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        x, y = x[order], y[order]
    return Dataset(
        "digits",
        x[:train_size],
        y[:train_size],
        x[train_size:],
        y[train_size:],
        num_classes=len(classes),
        image_shape=(1, 8, 8),
        class_names=tuple(str(digit) for digit in classes),
        value_range=(0.0, 1.0),
    )
