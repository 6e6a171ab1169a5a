"""Batches of every kind: their leaves, their slices, and what is wrong with them."""

from __future__ import annotations

from collections import UserDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from grokscope.measures.batches import (
    batch_size,
    chunks,
    concatenated,
    leaf_at,
    leaves,
    map_leaves,
    on_device,
    rows,
    with_leaf,
    wrt_key,
)


class Pair(NamedTuple):
    e: Tensor
    mask: Tensor


E, MASK = torch.randn(5, 3, 2), torch.arange(15).view(5, 3) > 4
KINDS = [E, (E, MASK), [E, MASK], Pair(E, MASK), {"e": E, "mask": MASK}]


@pytest.mark.parametrize("x", KINDS)
def test_slices_keep_the_kind_and_join_to_the_whole(x: Any) -> None:
    assert batch_size(x) == 5
    parts = list(chunks(x, 2))
    assert [batch_size(part) for part in parts] == [2, 2, 1]
    assert all(type(part) is type(x) for part in parts)
    whole = leaves(concatenated(parts))
    assert list(whole) == list(leaves(x))
    assert all(torch.equal(leaf, leaf_at(x, key)) for key, leaf in whole.items())
    last = rows(x, torch.tensor([4, 0]))
    assert torch.equal(leaf_at(last, wrt_key(last)), E[[4, 0]])
    assert type(on_device(x, "cpu")) is type(x)


@pytest.mark.parametrize("x", KINDS)
def test_one_leaf_is_replaced_and_the_others_stay(x: Any) -> None:
    key = wrt_key(x)
    changed = with_leaf(x, key, E + 1)
    assert type(changed) is type(x)
    assert torch.equal(leaf_at(changed, key), E + 1)
    assert torch.equal(leaf_at(x, key), E)
    others = [k for k in leaves(x) if k != key]
    assert all(leaf_at(changed, k) is MASK for k in others)


def test_another_mapping_becomes_a_dictionary() -> None:
    """As the encodings of a tokenizer, which are none."""
    assert type(map_leaves(Tensor.clone, UserDict(ids=MASK))) is dict


def test_the_leaf_to_differentiate_by_is_the_only_floating_point_one_or_the_one_named() -> None:
    assert wrt_key(E) is None
    assert wrt_key((MASK, E)) == 1
    assert wrt_key({"e": E, "bias": E}, "bias") == "bias"
    with pytest.raises(ValueError, match=r"several floating-point tensors, 'e', 'b'.*wrt='e'"):
        wrt_key({"e": E, "b": E})
    with pytest.raises(ValueError, match="wrt='c' is no tensor of x, which has 'e', 'b'"):
        wrt_key({"e": E, "b": E}, "c")
    with pytest.raises(TypeError, match=r"x\['mask'\] must be floating point"):
        wrt_key({"e": E, "mask": MASK}, "mask")
    with pytest.raises(ValueError, match="x is one tensor: leave wrt out"):
        wrt_key(E, "e")
    with pytest.raises(TypeError, match=r"x1\[0\] is torch.bool.*embeddings and a gs.View"):
        wrt_key((MASK,), name="x1")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({}, "x holds no tensor: got an empty dict"),
        ({"e": E, "use_cache": False}, r"x\['use_cache'\] must be a torch.Tensor: got bool"),
        ((E, MASK[:4]), r"x\[0\] has 5 examples and x\[1\] has 4; what all examples share"),
        ({"e": E, "scale": torch.tensor(2.0)}, r"x\['scale'\] needs a batch axis"),
    ],
)
def test_a_wrong_batch_is_named(x: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        batch_size(x)


def test_parts_of_different_kinds_do_not_join() -> None:
    with pytest.raises(ValueError, match="different tensors: 'e', 'mask' and 'e'"):
        concatenated([{"e": E, "mask": MASK}, {"e": E}])
    with pytest.raises(ValueError, match="parts is empty"):
        concatenated([])
