"""The names in a run directory, and the small files in it, read with the parts they must have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grokscope.runs.files import RunError, read_json_object
from grokscope.runs.rows import METRICS, TIMING
from grokscope.spelling import shortened

SPEC = "spec.yaml"
STATUS = "status.json"
ENV = "env.json"
RESULTS = "results.json"
DATA = "data"  # of env.json: for each arm with data of the user's own, a digest of them
ARRAYS, CHECKPOINTS, AFTER_TRAINING = "arrays", "checkpoints", "after_training"
LOCK = ".lock"
# of a run in a sweep: locked by the process that works on it, and what that printed
CLAIM, LOG = ".claim", "output.log"
KEPT = (
    SPEC, STATUS, ENV, RESULTS, METRICS, TIMING, ARRAYS, CHECKPOINTS, AFTER_TRAINING, LOCK, CLAIM,
    LOG,
)  # fmt: skip

_KINDS: dict[str, dict[str, type]] = {
    ENV: {"seeds": list, "packages": dict, "command": list, "resumed": list, DATA: dict},
    STATUS: {"state": str, "trials": dict, "started": str, "ended": str, "error": str},
}


def holds_run(path: Path) -> bool:
    """Whether there is a run in a folder, finished or not."""
    return (path / SPEC).exists()


def check_links(path: Path) -> None:
    """Raise where what a run keeps is not in its folder; the folder itself may be a link.

    A run directory may be anyone's: through a link in it, files of others would be read as the
    run's, and written on when it is resumed.

    Raises:
        RunError: if a file or a folder of the run is a link that leads out of it.
    """
    root = os.path.realpath(path)
    for place in filter(os.path.islink, _kept(path)):
        target = os.path.realpath(place)
        if not Path(target).is_relative_to(root):
            raise RunError(
                f"{place} is a link that leads out of the run, to {shortened(target, 200)}: put "
                "what is there in its place (the whole run directory may be a link)"
            )


def _kept(path: Path) -> Iterator[str]:
    """All that a run keeps, a folder before what is in it, which is where a link is refused."""
    for name in KEPT:
        top = os.path.join(path, name)
        yield top
        for folder, folders, files in os.walk(top):
            yield from (os.path.join(folder, below) for below in (*folders, *files))


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
