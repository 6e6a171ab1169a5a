"""The settings of arms and runs as flat names, and which of them differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grokscope.runs import Run

_WORDS_ONLY = ("title", "description")


def flat_settings(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and texts; a list of named mappings goes by the names.

    Example:
        >>> flat_settings({"model": {"widths": [128, 64]}, "methods": [{"name": "a", "lr": 1.0}]})
        {'model.widths': '128, 64', 'methods': 'a', 'a.lr': '1.0'}
    """
    found: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            found.update(flat_settings(item, f"{name}."))
        elif _is_named(item):
            found[name] = ", ".join(str(entry["name"]) for entry in item) or "none"
            for entry in item:
                options = {option: of for option, of in entry.items() if option != "name"}
                found.update(flat_settings(options, f"{entry['name']}."))
        elif item is not None:
            found[name] = _text(item)
    return found


def arm_settings(run: Run, arm: str) -> dict[str, str]:
    """Everything that defines one arm of a run."""
    entry = run.arm_spec(arm)
    return flat_settings({key: item for key, item in entry.items() if key not in _WORDS_ONLY})


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The names that do not have the same value everywhere, in the order they first appear.

    Example:
        >>> differing([{"lr": "0.1", "batch": "200"}, {"lr": "0.2", "batch": "200", "every": "4"}])
        ['lr', 'every']
    """
    names = dict.fromkeys(name for entry in settings for name in entry)
    return [name for name in names if len({entry.get(name) for entry in settings}) > 1]


def shared_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The settings that are the same everywhere."""
    apart = set(differing(settings))
    return {
        name: text for name, text in (settings[0] if settings else {}).items() if name not in apart
    }


def _is_named(item: Any) -> bool:
    return isinstance(item, list) and all(
        isinstance(entry, Mapping) and "name" in entry for entry in item
    )


def _text(item: Any) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, str) or not isinstance(item, Iterable):
        return str(item)
    return ", ".join(str(entry) for entry in item)
