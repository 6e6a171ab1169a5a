"""Experiments as YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grokscope.experiments.errors import SpecError
from grokscope.runs.files import RunError, read_bytes
from grokscope.runs.yaml_text import MAX_YAML_BYTES, parse_yaml
from grokscope.spelling import shortened


def yaml_value(given: str, text: str) -> Any:
    """The value that ``text``, a part of what was given on the command line, stands for."""
    try:
        return parse_yaml(text)
    except ValueError:
        raise SpecError(f"{given}: {shortened(text)!r} is not a YAML value") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SpecError: if the file is missing, is not YAML, or holds no mapping.
    """
    try:
        text = read_bytes(path, MAX_YAML_BYTES).decode()
    except RunError as error:
        raise SpecError(f"{error}: it is no experiment") from None
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not a text file; an experiment is a YAML file") from None
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise SpecError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{path} holds no experiment: expected a mapping of fields")
    return value
