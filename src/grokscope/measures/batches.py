"""A batch: a tensor, or a tuple, list or dictionary of tensors that share the batch axis.

What belongs to an example travels with it: a padding mask is an entry of the batch and is split
with the rest. An entry is here called a leaf. A batch that is one tensor is its own only leaf, with
the key None; the leaves of a tuple or list have their positions as keys, those of a dictionary its
keys. Input derivatives are taken by one floating-point leaf, ``wrt``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Entries are checked by `leaves`, which names the one that is no tensor.
Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[Any, Any]
Key = int | str | None


def leaves(x: Batch, name: str = "x") -> dict[Key, Tensor]:
    """The tensors of a batch by their keys, {None: x} for a tensor.

    Raises:
        TypeError: if ``x`` or one of its entries is something else.
        ValueError: if ``x`` has no entry.

    Example:
        >>> leaves({"ids": torch.ones(5, 3), "mask": torch.ones(5, 3)}).keys()
        dict_keys(['ids', 'mask'])
    """
    if isinstance(x, Tensor):
        return {None: x}
    found: dict[Key, Tensor]
    if isinstance(x, Mapping):
        found = dict(x.items())
    elif isinstance(x, tuple | list):
        found = dict(enumerate(x))
    else:
        raise TypeError(
            f"{name} must be a torch.Tensor, or a tuple, list or dictionary of them: got "
            f"{type(x).__name__}"
        )
    if not found:
        raise ValueError(f"{name} holds no tensor: got an empty {type(x).__name__}")
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{leaf_name(key, name)} must be a torch.Tensor: got {type(value).__name__}; leave "
                "it out of the batch and set it in a gs.View"
            )
    return found


def leaf_name(key: Key, name: str = "x") -> str:
    """How a leaf is spelled in a message: x, x[0] or x['mask']."""
    return name if key is None else f"{name}[{key!r}]"


def batch_size(x: Batch, name: str = "x") -> int:
    """The number of examples n, which all leaves share as the length of their first axis.

    Raises:
        TypeError: as for `leaves`.
        ValueError: if a leaf has no axis, or two leaves differ in the length of the first.

    Example:
        >>> batch_size((torch.ones(5, 3), torch.ones(5)))
        5
    """
    sizes: dict[Key, int] = {}
    for key, leaf in leaves(x, name).items():
        if leaf.ndim == 0:
            raise ValueError(
                f"{leaf_name(key, name)} needs a batch axis: got a tensor of shape (); what all "
                "examples share belongs in a gs.View, not in the batch"
            )
        sizes[key] = leaf.shape[0]
    (first, n), *others = sizes.items()
    for key, size in others:
        if size != n:
            raise ValueError(
                f"{name} needs one batch axis, the first of every tensor: "
                f"{leaf_name(first, name)} has {n} examples and {leaf_name(key, name)} has {size}; "
                "what all examples share belongs in a gs.View, not in the batch"
            )
    return n


def map_leaves(function: Callable[[Tensor], Tensor], x: Batch) -> Batch:
    """The batch of the same kind whose leaves are ``function`` of those of ``x``.

    A named tuple stays one; a mapping becomes a plain dictionary.
    """
    if isinstance(x, Tensor):
        return function(x)
    return _like(x, {key: function(leaf) for key, leaf in leaves(x).items()})


def rows(x: Batch, index: slice | Tensor | Sequence[int]) -> Batch:
    """The examples at ``index``: a slice, integers or a mask, as for the first axis of a tensor."""
    return map_leaves(lambda leaf: leaf[index], x)


def chunks(x: Batch, chunk_size: int | None) -> Iterator[Batch]:
    """Successive parts of at most ``chunk_size`` examples; the whole batch if None.

    Example:
        >>> [len(part["e"]) for part in chunks({"e": torch.ones(5, 2)}, 2)]
        [2, 2, 1]
    """
    n = batch_size(x)
    if chunk_size is None or chunk_size >= n:
        yield x
        return
    for start in range(0, n, chunk_size):
        yield rows(x, slice(start, start + chunk_size))


def concatenated(parts: Iterable[Batch]) -> Batch:
    """One batch of the examples of several of the same kind, in their order.

    Raises:
        ValueError: if the parts have different leaves, or none is given.
    """
    found = list(parts)
    if not found:
        raise ValueError("parts is empty: pass at least one batch")
    by_part = [leaves(part) for part in found]
    keys = list(by_part[0])
    for part in by_part[1:]:
        if set(part) != set(keys):
            raise ValueError(
                f"the batches have different tensors: {_listed(keys)} and {_listed(list(part))}"
            )
    joined = {key: torch.cat([part[key] for part in by_part]) for key in keys}
    return _like(found[0], joined)


def on_device(x: Batch, device: torch.device | str) -> Batch:
    """The batch with every leaf on ``device``."""
    return map_leaves(lambda leaf: leaf.to(device), x)


def detached(x: Batch) -> Batch:
    """The batch without the graph that its leaves may hang on."""
    return map_leaves(Tensor.detach, x)


def leaf_at(x: Batch, key: Key) -> Tensor:
    """The leaf of ``x`` with this key."""
    return leaves(x)[key]


def with_leaf(x: Batch, key: Key, leaf: Tensor) -> Batch:
    """The batch with ``leaf`` in the place of the one at ``key``."""
    return leaf if key is None else _like(x, {**leaves(x), key: leaf})


def wrt_key(x: Batch, wrt: Key = None, name: str = "x") -> Key:
    """The key of the leaf that input derivatives are taken by.

    Args:
        x: the batch.
        wrt: the key, where the user named it; the only floating-point leaf if None.
        name: what to call the batch in a message.

    Raises:
        TypeError: if no leaf, or not the one named, is floating point.
        ValueError: if there are several and none is named, or the one named is not there.

    Example:
        >>> wrt_key({"e": torch.ones(5, 3), "mask": torch.ones(5, dtype=torch.bool)})
        'e'
    """
    found = leaves(x, name)
    if wrt is not None and None not in found:
        if wrt not in found:
            raise ValueError(
                f"wrt={wrt!r} is no tensor of {name}, which has {_listed(list(found))}"
            )
        if not found[wrt].is_floating_point():
            raise TypeError(
                f"{leaf_name(wrt, name)} must be floating point to differentiate by it: got "
                f"{found[wrt].dtype}"
            )
        return wrt
    if wrt is not None:
        raise ValueError(
            f"wrt={wrt!r} names an entry of a tuple or dictionary, but {name} is one tensor: leave "
            "wrt out"
        )
    floating = [key for key, leaf in found.items() if leaf.is_floating_point()]
    if len(floating) == 1:
        return floating[0]
    if floating:
        raise ValueError(
            f"{name} has several floating-point tensors, {_listed(floating)}: name the one to "
            f"differentiate by, as in gs.View(model, wrt={floating[0]!r})"
        )
    kinds = ", ".join(f"{leaf_name(key, name)} is {leaf.dtype}" for key, leaf in found.items())
    fix = f"{name}.float()" if None in found else "floating-point numbers"
    raise TypeError(
        f"{name} must be floating point to differentiate by it: {kinds}; pass {fix}, or for a "
        "model of tokens their embeddings and a gs.View that takes them"
    )


def _like(x: Batch, entries: Mapping[Key, Tensor]) -> Batch:
    """A batch of the kind of ``x`` with these leaves."""
    if isinstance(x, Tensor):
        return entries[None]
    if isinstance(x, Mapping):
        return dict(entries)
    values = [entries[position] for position in range(len(entries))]
    if isinstance(x, list):
        return values
    return type(x)._make(values) if hasattr(x, "_make") else tuple(values)


def _listed(keys: list[Key]) -> str:
    return ", ".join(repr(key) for key in keys)
