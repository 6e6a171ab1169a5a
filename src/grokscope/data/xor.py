"""XOR cluster data: two coordinates that decide, and noise in all the others.

x = (s1, s2, e3, ..., ed) with signs s1, s2 in {-1, 1} and e_i in {-eps, eps}, each drawn with
probability 1/2; the target is s1 s2. This is the data of GrokAlign (Walker et al. 2025), its
experiment on XOR, with d = 40,000, eps = 0.05 and 400 examples, after Xu et al. 2024.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from grokscope.data.dataset import Dataset
from grokscope.spelling import unknown_name

Targets = Literal["sign", "class"]


def load_xor(
    train_size: int = 400,
    test_size: int = 400,
    dimension: int = 40_000,
    noise: float = 0.05,
    targets: Targets = "sign",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Fresh XOR cluster data, inputs (n, dimension).

    Args:
        train_size: number of training examples.
        test_size: number of test examples, drawn apart from the training examples.
        dimension: d, features of an input; the first two decide.
        noise: eps, the size of every other feature.
        targets: ``"sign"``: floating-point s1 s2 for a scalar output; ``"class"``: int64, 1 where
            s1 s2 is positive and 0 elsewhere.
        seed: decides every draw. The test examples do not depend on ``train_size``.
        dtype: floating-point type of the inputs and of sign targets.

    Raises:
        ValueError: if a size is not positive, ``dimension`` is below 2, or ``noise`` is negative.
    """
    if targets not in get_args(Targets):
        raise ValueError(unknown_name("xor targets", targets, get_args(Targets)))
    for name, value, least in (
        ("train_size", train_size, 1),
        ("test_size", test_size, 1),
        ("dimension", dimension, 2),
        ("noise", noise, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name} must be at least {least} for xor: got {value}")
    splits = []
    for stream, size in enumerate((train_size, test_size)):
        generator = torch.Generator().manual_seed(2 * seed + stream)
        bits = torch.randint(2, (size, dimension), dtype=torch.int8, generator=generator)
        x = bits.to(dtype).mul_(2).sub_(1)
        y = x[:, 0] * x[:, 1]
        x[:, 2:] *= noise
        splits.append((x, y if targets == "sign" else (y > 0).long()))
    (train_x, train_y), (test_x, test_y) = splits
    num_classes = None if targets == "sign" else 2
    return Dataset("xor", train_x, train_y, test_x, test_y, num_classes=num_classes)
