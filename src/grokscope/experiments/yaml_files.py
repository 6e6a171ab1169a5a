"""YAML as people write it: 1e-3 is a number, and a key given twice is a mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from grokscope.experiments.errors import SpecError
from grokscope.runs.files import MAX_YAML_BYTES, check_expanded

# The loader in C reads the same, ten times faster, where PyYAML was built with it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"line {line}: {key.value!r} is given twice", key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str) -> Any:
    """The value that a piece of YAML stands for.

    Raises:
        yaml.YAMLError: if it is none.
        ValueError: if it nests or repeats itself without end.
    """
    value = yaml.load(text, _Loader)
    check_expanded(value)
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SpecError: if the file is missing, is not YAML, or holds no mapping.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise SpecError(f"{path} is larger than {MAX_YAML_BYTES:,} bytes: it is no experiment")
        value = parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file; an experiment is a YAML file") from None
    except SpecError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise SpecError(f"{path} is not valid YAML: {what}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{path} holds no experiment: expected a mapping of fields")
    return value
