"""YAML 1.2 as text: `1e-3` is a number, `no` and `1:30` are words, a key given twice is a mistake.

PyYAML reads YAML 1.1, where `0100` is 64, `1:30` is 90 and `no` is false. What is written is quoted
so that either reads the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MAX_YAML_BYTES = 5_000_000  # of a YAML file: the largest spec of ours has 15,000
_MAX_VALUES = 200_000  # once aliases are expanded
_MAX_DEPTH = 50
_MAX_SHOWN = 300  # characters of a mistake

# The loader in C reads the same, ten times faster, where PyYAML was built with it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes what YAML 1.1 or 1.2 would not read as text."""


# The core schema (YAML 1.2.2, section 10.3.2), and the key << of both.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
)
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(f"(?:{_pattern})$"),
            ["" if sign == "\0" else sign for sign in _first],
        )


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            said = f"line {line}: a key is text, and this is a list or a mapping"
            raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        if key.value in seen:
            said = f"line {line}: {key.value[:80]!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str) -> Any:
    """The value that a piece of YAML stands for.

    Raises:
        ValueError: if it is none, or nests or repeats itself without end.

    Example:
        >>> parse_yaml("{lr: 1e-3, steps: 0100, clock: 1:30, country: no, on: true}")
        {'lr': 0.001, 'steps': 100, 'clock': '1:30', 'country': 'no', 'on': True}
    """
    try:
        value = yaml.load(text, _Loader)
        _check_expanded(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:_MAX_SHOWN]) from None
    return value


def dump_yaml(value: Mapping[str, Any]) -> str:
    """A mapping as YAML in the order it was written."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _check_expanded(value: Any) -> None:
    """Refuse a document that is small as YAML and endless once its aliases are expanded.

    Raises:
        ValueError: if it nests more than 50 deep or has more than 200,000 values.
    """
    sizes: dict[int, int] = {}

    def size(part: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise ValueError(f"it nests more than {_MAX_DEPTH} levels deep, or contains itself")
        if not isinstance(part, (dict, list)):
            return 1
        # An alias is the same object again: it is counted each time and looked into once.
        if id(part) not in sizes:
            items = [*part.keys(), *part.values()] if isinstance(part, dict) else part
            sizes[id(part)] = 1 + sum(size(item, depth + 1) for item in items)
        return sizes[id(part)]

    if size(value, 0) > _MAX_VALUES:
        raise ValueError(f"it holds more than {_MAX_VALUES:,} values once aliases are expanded")
