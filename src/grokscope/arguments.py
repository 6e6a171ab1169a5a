"""Checks of arguments against their annotations, so that a mistake is named where it was made.

``@checked_arguments`` on a public function or constructor refuses, before any of its code runs, a
value that its annotation does not allow: NaN or a boolean for a number, a string for a tensor,
integers where ``Float`` is asked for, another number of axes than the shape has, a generator that
is none, a misspelled literal. What an annotation cannot say (ranges, sizes that belong together) is
checked by the function itself. Cost: some microseconds a call, none per element.

Annotations that the table below does not know allow everything.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from grokscope.spelling import unknown_name

P = ParamSpec("P")
R = TypeVar("R")

# what an annotation allows in words, and whether a value is that
_Kind = tuple[str, Callable[[Any], bool]]


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing what its annotations do not allow.

    Raises:
        TypeError: if it is called with a value of a kind that the annotation does not name.
        ValueError: if it is called with NaN, a misspelled literal, or a tensor of other axes.

    Example:
        >>> @checked_arguments
        ... def half(count: "int") -> "float":
        ...     return count / 2
        >>> half(True)
        Traceback (most recent call last):
        TypeError: count must be an integer: got True
    """
    signature = inspect.signature(function)
    names = list(signature.parameters)
    annotations = {name: str(found.annotation) for name, found in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if _is_traced():
            return function(*args, **kwargs)
        axes: dict[str, tuple[str, tuple[int, ...]]] = {}
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name, value in given.items():
            if name in annotations:
                check_argument(name, value, annotations[name])
                _check_axes(name, value, annotations[name], axes)
        return function(*args, **kwargs)

    return checked


def _is_traced() -> bool:
    # A graph that torch.compile makes has no place for checks of Python values.
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def check_fields(instance: Any) -> None:
    """The same for the fields of a dataclass, from its ``__post_init__``."""
    for name, annotation in type(instance).__annotations__.items():
        check_argument(name, getattr(instance, name), str(annotation))


def check_argument(name: str, value: Any, annotation: str) -> None:
    """Raise unless the annotation allows the value."""
    alternatives = _alternatives(annotation)
    kinds = [_kind(alternative) for alternative in alternatives]
    for alternative, kind in zip(alternatives, kinds, strict=True):
        if kind is None:
            return
        if kind[1](value):
            _check_content(name, value, alternative)
            return
    for alternative in alternatives:
        if alternative.startswith("Literal[") and isinstance(value, str):
            raise ValueError(unknown_name(name, value, _literals(alternative)))
    known = dict.fromkeys(kind[0] for kind in kinds if kind is not None)
    got = repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
    error = ValueError if _is_number(value) and "int" in alternatives else TypeError
    raise error(f"{name} must be {' or '.join(known)}: got {got}{_remedy(name, value, annotation)}")


def _check_content(name: str, value: Any, annotation: str) -> None:
    """Raise where a value is of the right kind and still cannot be meant."""
    head, _, inner = annotation.partition("[")
    if head == "float" and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number: got {value}")
    if head == "Sequence" and isinstance(value, list | tuple):
        for position, entry in enumerate(value):
            check_argument(f"{name}[{position}]", entry, inner[:-1])
    if head == "tuple":
        kinds = [part.strip() for part in inner[:-1].split(",")]
        kinds = kinds[:1] * len(value) if kinds[-1] == "..." else kinds
        if len(value) != len(kinds):
            raise ValueError(f"{name} must hold {len(kinds)} values: got {len(value)}")
        for position, (entry, kind) in enumerate(zip(value, kinds, strict=True)):
            check_argument(f"{name}[{position}]", entry, kind)
    if "Tensor" in annotation and getattr(value, "is_meta", False):
        raise ValueError(f"{name} is on the meta device, without numbers")


def _check_axes(
    name: str, value: Any, annotation: str, seen: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Raise unless a tensor has the axes of its annotation, of the sizes that others gave them."""
    shape = _shape(annotation)
    if shape is None or not hasattr(value, "shape"):
        return
    words = shape.split()
    where = next((i for i, word in enumerate(words) if word[0] in "*."), None)
    found, extra = tuple(value.shape), len(value.shape) - len(words)
    if extra < (0 if where is None else -1) or (where is None and extra):
        raise ValueError(
            f"{name} must have shape ({', '.join(words)}): got {found}"
            + (f"; pass {name}.unsqueeze(0) for one example" if extra == -1 else "")
        )
    start = 0
    for place, word in enumerate(words):
        stop = start + 1 + (extra if place == where else 0)
        sizes = found[start:stop]
        start = stop
        if word == "..." or word.isdigit():
            continue
        other, expected = seen.setdefault(word, (name, sizes))
        if sizes != expected:
            raise ValueError(
                f"{name} and {other} must agree in {word.lstrip('*')}: {name} has shape {found}, "
                f"of {other} it is {expected if word[0] == '*' else expected[0]}"
            )


@functools.cache
def _shape(annotation: str) -> str | None:
    """The axes in an annotation of a tensor such as ``Float[Tensor, "n d"] | None``."""
    found = re.match(r"""\w+\[Tensor, ?["'](.*?)["']\]""", annotation)
    return None if found is None else found[1]


def _remedy(name: str, value: Any, annotation: str) -> str:
    if isinstance(value, str) and "Sequence[str]" in annotation:
        return f"; pass [{value!r}]"
    if "Tensor" not in annotation:
        return ""
    if not hasattr(value, "is_floating_point"):
        array = isinstance(value, list | tuple) or hasattr(value, "__array__")
        return f"; pass torch.as_tensor({name})" if array else ""
    return f" of {value.dtype}" + ("; pass .float()" if "Float[" in annotation else "")


@functools.cache
def _alternatives(annotation: str) -> tuple[str, ...]:
    """``int | None`` and the like, split at the bars outside of brackets."""
    parts, depth = [""], 0
    for character in _ALIASES.get(annotation.strip("'"), annotation.strip("'")):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    whole = (part.strip() for part in parts)
    return tuple(
        each for part in whole for each in (_alternatives(part) if part in _ALIASES else (part,))
    )


@functools.cache
def _kind(annotation: str) -> _Kind | None:
    """What one alternative allows, or None for an annotation that is not known."""
    if annotation.startswith("Literal["):
        literals = _literals(annotation)
        return f"one of {', '.join(literals)}", lambda value: _is_literal(value, literals)
    head = annotation.partition("[")[0]
    return _KINDS.get(head)


def _literals(annotation: str) -> list[str]:
    return [part.strip().strip("'\"") for part in annotation[8:-1].split(",")]


def _is_literal(value: Any, literals: list[str]) -> bool:
    return not isinstance(value, bool) and isinstance(value, str | int) and str(value) in literals


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    # an array or tensor is taken for a list of its rows
    listed = isinstance(value, Sequence) or (
        hasattr(value, "__getitem__") and hasattr(value, "ndim")
    )
    return listed and not isinstance(value, str | bytes)


def _is_model(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _is_floating(value: Any) -> bool:
    return _is_tensor(value) and value.is_floating_point()


def _is_integer_tensor(value: Any) -> bool:
    import torch

    real = _is_tensor(value) and not value.is_floating_point() and not value.is_complex()
    return real and value.dtype is not torch.bool


def _is_bool_tensor(value: Any) -> bool:
    import torch

    return _is_tensor(value) and value.dtype is torch.bool


def _is_generator(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Generator)


def _is_batch(value: Any) -> bool:
    return _is_tensor(value) or isinstance(value, tuple | list | Mapping)


_KINDS: dict[str, _Kind] = {
    "None": ("None", lambda value: value is None),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": (
        "an integer",
        lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool),
    ),
    "float": ("a number", _is_number),
    "str": ("a string", lambda value: isinstance(value, str)),
    "Path": ("a path", lambda value: isinstance(value, Path)),
    "tuple": ("a tuple", lambda value: isinstance(value, tuple | list)),
    "Sequence": ("a list", _is_sequence),
    "Callable": ("a function", callable),
    "Tensor": ("a torch.Tensor", _is_tensor),
    "Shaped": ("a torch.Tensor", _is_tensor),
    "Float": ("a floating-point torch.Tensor", _is_floating),
    "Int": ("an integer torch.Tensor", _is_integer_tensor),
    "Int64": ("an integer torch.Tensor", _is_integer_tensor),
    "Bool": ("a boolean torch.Tensor", _is_bool_tensor),
    "torch.Generator": ("a torch.Generator", _is_generator),
    "nn.Module": ("an nn.Module", _is_module),
    "Model": ("an nn.Module or a function of a batch", _is_model),
    "Batch": ("a tensor, or a tuple, list or dictionary of tensors", _is_batch),
    "slice": ("a slice", lambda value: isinstance(value, slice)),
    "type": ("a class", lambda value: isinstance(value, type)),
}

# names of annotations, as the modules that use them define them
_ALIASES = {
    "OwnLoss": "Callable",
    "Dims": "slice | Sequence[int]",
    "Reduction": "Literal['full', 'trace', 'sum']",
    "SubsetRule": "Literal['first', 'seeded']",
}
