"""What an object shows of itself: lines in a terminal, a table in a notebook.

``@shown(...)`` gives a class a ``__repr__``, where it has none of its own, and a ``_repr_html_``,
both of the same facts: tensors by their shape, mean and extremes instead of their numbers.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

C = TypeVar("C", bound=type)

_WIDTH = 88  # of a line that takes all facts
_MOST = 70  # characters of a value that knows nothing shorter to say of itself


def shown(*names: str) -> Callable[[C], C]:
    """A decorator: instances show the attributes of these names.

    A class with a method ``_shown`` shows the mapping that it returns; one that names nothing and
    is a dataclass or a named tuple, its fields. Subclasses show themselves under their own names.

    Example:
        >>> @shown("mean", "count")
        ... class Result:
        ...     mean, count = 0.123456, 3
        >>> Result()
        Result(mean 0.1235, count 3)
        >>> Result()._repr_html_()[:36]
        '<table><caption>Result</caption><tbo'
    """

    def decorated(cls: C) -> C:
        def facts(self: Any) -> dict[str, str]:
            return {name: value_text(value) for name, value in _values(self, names).items()}

        own = {"_repr_html_": lambda self: _table(type(self).__name__, facts(self))}
        # What a named tuple is given lists all numbers of its tensors.
        given = vars(cls).get("__repr__")
        if given is None or given.__module__ == "collections":
            own["__repr__"] = lambda self: _lines(type(self).__name__, facts(self))
        for name, method in own.items():
            setattr(cls, name, method)
        return cls

    return decorated


def value_text(value: Any) -> str:
    """A value in a few words.

    Example:
        >>> import torch
        >>> value_text(torch.tensor([1.0, 2.0, 4.5])), value_text(0.25), value_text(1234567)
        ('(3,) mean 2.5, 1 to 4.5', '0.25', '1,234,567')
    """
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    if hasattr(value, "is_floating_point") and hasattr(value, "shape"):
        return _tensor(value.detach())
    if isinstance(value, Mapping):
        return f"{len(value):,} entries"
    if hasattr(value, "_shown"):  # what shows more of itself where it stands alone
        first = list(value._shown().items())[:2]
        return f"{type(value).__name__}({', '.join(f'{k} {value_text(v)}' for k, v in first)})"
    text = " ".join(str(value).split())
    return text if len(text) <= _MOST else type(value).__name__


def settings_of(instance: object) -> dict[str, Any]:
    """What a method or a measure was made with: its public attributes that are plain values."""
    plain = (bool, int, float, str, tuple, type(None))
    return {
        name: value
        for name, value in vars(instance).items()
        if not name.startswith("_") and isinstance(value, plain)
    }


def called_with(instance: object) -> str:
    """A method or a measure as the call that makes it.

    Example:
        >>> from types import SimpleNamespace
        >>> called_with(SimpleNamespace(weight=0.1, _calls=3))
        'SimpleNamespace(weight=0.1)'
    """
    settings = ", ".join(f"{name}={value!r}" for name, value in settings_of(instance).items())
    return f"{type(instance).__name__}({settings})"


def latest(row: Mapping[str, Any]) -> str:
    """The accuracies of an evaluation, or its losses where it has none.

    Example:
        >>> latest({"step": 3, "train_accuracy": 1.0, "test_accuracy": 0.5, "train_loss": 0.1})
        'train 100%  test  50%'
        >>> latest({"step": 3, "train_loss": 0.125})
        'train loss 0.125'
    """
    for metric, written in (("accuracy", "{} {:4.0%}"), ("loss", "{} loss {:.3g}")):
        values = {part: row.get(f"{part}_{metric}") for part in ("train", "test")}
        known = [written.format(part, of) for part, of in values.items() if of is not None]
        if known:
            return "  ".join(known)
    return ""


def _values(instance: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if names:
        return {name: getattr(instance, name) for name in names}
    if hasattr(instance, "_shown"):
        found: Mapping[str, Any] = instance._shown()
        return found
    own: Sequence[str] = getattr(instance, "_fields", ())
    if is_dataclass(instance):
        own = [field.name for field in fields(instance)]
    return {name: getattr(instance, name) for name in own}


def _tensor(x: Any) -> str:
    shape = f"({', '.join(map(str, x.shape))}{',' if x.ndim == 1 else ''})"
    if x.numel() == 0 or x.is_complex() or x.is_meta:
        return shape
    if x.numel() == 1 and x.ndim == 0:
        return value_text(x.item())
    if not x.is_floating_point():
        low, high = int(x.min()), int(x.max())
        return f"{shape} {low} to {high}"
    known = x.double()[x.isfinite()]
    lost = x.numel() - known.numel()
    note = f", {lost} not finite" if lost else ""
    if known.numel() == 0:
        return shape + note
    mean, least, most = (float(of) for of in (known.mean(), known.min(), known.max()))
    return f"{shape} mean {mean:.4g}, {least:.4g} to {most:.4g}{note}"


def _lines(name: str, facts: Mapping[str, str]) -> str:
    """All facts on a line where they fit, else one on each."""
    line = f"{name}({', '.join(f'{key} {text}' for key, text in facts.items())})"
    if len(line) <= _WIDTH:
        return line
    width = max(map(len, facts))
    return "\n".join([name, *(f"  {key:<{width}}  {text}" for key, text in facts.items())])


def _table(name: str, facts: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(key)}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for key, text in facts.items()
    )
    return f"<table><caption>{html.escape(name)}</caption><tbody>{rows}</tbody></table>"
