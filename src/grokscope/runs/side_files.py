"""The small files beside the rows of a run directory, each read with the parts it must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grokscope.runs.files import RunError, read_json_object
from grokscope.spelling import shortened

SPEC = "spec.yaml"
STATUS = "status.json"
ENV = "env.json"
RESULTS = "results.json"

_KINDS: dict[str, dict[str, type]] = {
    ENV: {"seeds": list, "packages": dict, "command": list, "resumed": list},
    STATUS: {"state": str, "trials": dict, "started": str, "ended": str, "error": str},
}


def holds_run(path: Path) -> bool:
    """Whether there is a run in a folder, finished or not."""
    return (path / SPEC).exists()


def read_side_file(path: Path) -> dict[str, Any]:
    """The environment, the status or the results of a run.

    Raises:
        RunError: if the file is missing or damaged.
    """
    content = read_json_object(path)
    for key, kind in _KINDS.get(path.name, {}).items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise RunError(f"{path} is damaged: {key} is {shortened(repr(content[key]))}")
    trials = content.get("trials") if path.name == STATUS else None
    for name, entry in (trials or {}).items():
        if not isinstance(entry, dict):
            raise RunError(f"{path} is damaged: trials.{name} is {shortened(repr(entry))}")
    return content
