"""Snapshots of a network for another process: everything that it is, and of that what is new.

A network is more than parameters and buffers: layers are added, resized and frozen, and a forward
pass reads plain attributes. So a snapshot has a form, which is the pickle of all modules with
numbers in the place of their tensors, and the values of those tensors. The form goes along where it
is not that of the snapshot before; where only values have changed, only values are sent. Modules
and tensors keep their numbers, so that what else refers to one there, as a measure does, refers to
the same one still. Hooks of ours, which belong to the training, stay behind.
Cost: one pickle of the modules without their tensors, and a copy of the tensors.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from grokscope.imports import is_ours
from grokscope.measures.hooks import HOOK_TABLES

# those of other types, as sparse layouts of others' own, are part of the form
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class Snapshot:
    """What is sent: the form, or None where it is that of the one before, and tensors by number."""

    form: bytes | None
    values: dict[int, Tensor]


class Sender:
    """Takes snapshots, in the process that trains."""

    def __init__(self) -> None:
        self._numbers: Any = WeakIdKeyDictionary()
        self._next = itertools.count()
        self._form: bytes | None = None

    def snapshot(self, thing: Any) -> Snapshot:
        """A network, or what holds one, as it is now.

        Raises:
            Exception: if it cannot be pickled, whatever its parts raise then.
        """
        # takes classes and functions of a script or a notebook; 0.1 s, and few need it
        from joblib.externals.loky.backend.reduction import get_loky_pickler

        modules: dict[int, nn.Module] = {}
        tensors: dict[int, Tensor] = {}

        class Forming(get_loky_pickler()):  # type: ignore[misc]
            """Writes numbers for modules and tensors, and notes them."""

            def persistent_id(_, part: Any) -> Any:
                if isinstance(part, nn.Module):
                    number = self._number(part)
                    modules[number] = part
                    return "module", number, type(part)
                if type(part) not in _PLAIN:
                    return None
                number = self._number(part)
                tensors[number] = part
                trained = part.is_leaf and part.requires_grad
                return "tensor", number, type(part), trained, part.dtype, str(part.device)

        stream = io.BytesIO()
        pickler = Forming(stream)
        pickler.dump(thing)
        written: set[int] = set()
        while missing := [number for number in modules if number not in written]:
            for number in missing:  # each may lead to further ones
                pickler.dump((number, _state(modules[number])))
                written.add(number)
        form = stream.getvalue()
        is_new, self._form = form != self._form, form
        # copied now: the training goes on while the process measures
        values = {n: own.detach().to("cpu", copy=True) for n, own in tensors.items()}
        return Snapshot(form if is_new else None, values)

    def _number(self, part: Any) -> int:
        if part not in self._numbers:
            self._numbers[part] = next(self._next)
        number: int = self._numbers[part]
        return number


class Receiver:
    """Makes of snapshots what they are of, in the process that measures."""

    def __init__(self) -> None:
        self._parts: dict[int, Any] = {}
        self._first: set[int] = set()

    def receive(self, sent: Snapshot) -> Any:
        """What the snapshot is of; None where its form is that of the one before."""
        for number, value in sent.values.items():
            if number in self._parts:
                _give(self._parts[number], value)
        if sent.form is None:
            return None
        seen: set[int] = set()

        class Reading(pickle.Unpickler):
            """Finds modules and tensors by their numbers."""

            def persistent_load(_, told: Any) -> Any:
                kind, number, *rest = told
                seen.add(number)
                return (
                    self._module(number, *rest)
                    if kind == "module"
                    else self._tensor(number, sent.values, *rest)
                )

        stream = io.BytesIO(sent.form)
        reader = Reading(stream)
        thing = reader.load()
        while stream.tell() < len(sent.form):
            number, state = reader.load()
            vars(self._parts[number]).clear()
            self._parts[number].__setstate__(state)
        # what came first may be held by measures; else what is gone there goes here too
        self._first = self._first or seen
        self._parts = {n: part for n, part in self._parts.items() if n in self._first | seen}
        return thing

    def _module(self, number: int, kind: type[nn.Module]) -> nn.Module:
        module = self._parts.setdefault(number, kind.__new__(kind))
        if type(module) is not kind:
            module.__class__ = kind
        return module

    def _tensor(
        self,
        number: int,
        values: Mapping[int, Tensor],
        kind: type[Tensor],
        trained: bool,
        dtype: torch.dtype,
        device: str,
    ) -> Tensor:
        if number not in self._parts:
            value = values[number].to(device)
            own = nn.Parameter(value, trained) if kind is nn.Parameter else value
            self._parts[number] = nn.Buffer(own) if kind is nn.Buffer else own
        tensor: Tensor = self._parts[number]
        if tensor.device != torch.device(device) or tensor.dtype != dtype:
            tensor.data = values[number].to(device)
        return tensor.requires_grad_(trained)


def _state(module: nn.Module) -> Any:
    """A module as it pickles itself, without the hooks of ours."""
    state = module.__getstate__()
    if not isinstance(state, dict):
        return state
    return {
        name: _others(value) if name in HOOK_TABLES and isinstance(value, Mapping) else value
        for name, value in state.items()
    }


def _others(hooks: Mapping[int, Any]) -> OrderedDict[int, Any]:
    """The hooks that are not ours."""
    return OrderedDict((key, hook) for key, hook in hooks.items() if not is_ours(hook))


def _give(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor another value, of another shape where need be."""
    if tensor.shape == value.shape:
        with torch.no_grad():
            tensor.copy_(value)
    else:
        tensor.data = value.to(tensor)
