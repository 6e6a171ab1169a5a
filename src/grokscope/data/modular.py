"""Modular arithmetic: predict a o b mod p from a and b (Power et al. 2022).

All pairs of residues are there, p^2 of them (p (p - 1) for division, which leaves out b = 0); a
fraction is drawn to train on and the rest is for test. The defaults, addition modulo 113 from
30 % of the pairs, are those of Nanda et al. 2023.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.data.dataset import Dataset, check_size
from grokscope.spelling import unknown_name

Operation = Literal["add", "subtract", "multiply", "divide", "add_squares"]
Encoding = Literal["one_hot", "tokens"]


def load_modular(
    modulus: int = 113,
    operation: Operation = "add",
    encoding: Encoding = "one_hot",
    equals: bool = False,
    train_fraction: float = 0.3,
    train_size: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Every pair (a, b) with its result a o b mod p, in an order drawn from ``seed``.

    The part ``unseen`` of the test data are the pairs that are in the training data in neither
    order: where a o b = b o a, to memorize (a, b) is to know (b, a), so that test accuracy stands
    near the training share long before anything generalizes.

    Args:
        modulus: p; a prime for ``"divide"``.
        operation: ``"add"``, ``"subtract"``, ``"multiply"``, ``"divide"`` or ``"add_squares"``,
            a^2 + b^2.
        encoding: ``"one_hot"``: inputs (n, 2p), the one-hot codes of a and b side by side;
            ``"tokens"``: int64 (n, 2), a and b themselves, for an embedding.
        equals: append the token p, an equals sign, at which a transformer reads off the answer:
            inputs (n, 3).
        train_fraction: share of the pairs to train on, rounded to whole pairs.
        train_size: number of pairs to train on, in place of ``train_fraction``.
        seed: decides which pairs are for training.
        dtype: floating-point type of one-hot inputs.

    Raises:
        ValueError: if an argument is out of its range or misspelt.
    """
    for name, value, known in (
        ("operation", operation, Operation),
        ("encoding", encoding, Encoding),
    ):
        if value not in get_args(known):
            raise ValueError(unknown_name(f"modular {name}", value, get_args(known)))
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2: got {modulus}")
    if equals and encoding != "tokens":
        raise ValueError("equals=True appends a token: pass encoding='tokens' with it")
    pairs, results = _table(modulus, operation)
    if train_size is None:
        if not 0 < train_fraction < 1:
            raise ValueError(f"train_fraction must lie between 0 and 1: got {train_fraction}")
        train_size = round(train_fraction * len(pairs))
    check_size("train_size", train_size, len(pairs) - 1, "modular, which tests on the rest")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    x, y = pairs[order], results[order]
    unseen = unseen_in_either_order(x[:train_size], x[train_size:], modulus)
    if encoding == "one_hot":
        x = one_hot(x, modulus).flatten(1).to(dtype)
    elif equals:
        x = torch.cat([x, torch.full((len(x), 1), modulus)], dim=1)
    return Dataset(
        "modular",
        x[:train_size],
        y[:train_size],
        x[train_size:],
        y[train_size:],
        num_classes=modulus,
        test_parts={"unseen": unseen} if bool(unseen.any()) else {},
    )


def unseen_in_either_order(
    train_pairs: Int64[Tensor, "n tokens"], test_pairs: Int64[Tensor, "m tokens"], modulus: int
) -> Bool[Tensor, " m"]:
    """Which test pairs (a, b) have no (b, a) among the training pairs.

    Both arguments hold a and b in their first two columns.
    """
    a, b = train_pairs[:, 0], train_pairs[:, 1]
    seen = torch.zeros(modulus, modulus, dtype=torch.bool, device=train_pairs.device)
    seen[b, a] = True
    return ~seen[test_pairs[:, 0], test_pairs[:, 1]]


def _table(modulus: int, operation: Operation) -> tuple[Int64[Tensor, "n 2"], Int64[Tensor, " n"]]:
    """All pairs (a, b) and a o b mod p."""
    residues = torch.arange(modulus)
    if operation != "divide":
        pairs = torch.cartesian_prod(residues, residues)
        a, b = pairs.unbind(1)
        result = {
            "add": a + b,
            "subtract": a - b,
            "multiply": a * b,
            "add_squares": a * a + b * b,
        }[operation]
        return pairs, result % modulus
    # a = c b mod p: walk over the quotients c, which gives each pair once where p is prime.
    if any(modulus % factor == 0 for factor in range(2, int(modulus**0.5) + 1)):
        raise ValueError(f"modulus must be prime for operation='divide': got {modulus}")
    quotients, b = torch.cartesian_prod(residues, residues[1:]).unbind(1)
    return torch.stack([quotients * b % modulus, b], dim=1), quotients
