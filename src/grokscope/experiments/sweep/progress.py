"""How far a run of a sweep has got, read from its directory while another process writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokscope.runs.rows import METRICS

_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Progress:
    """The last evaluation of a run."""

    arm: str
    step: int
    train_accuracy: float | None
    test_accuracy: float | None


def progress_of(run: Path) -> Progress | None:
    """Where a run is; None before its first evaluation."""
    row = _last_row(run / METRICS)
    if row is None:
        return None
    return Progress(
        str(row["arm"]), int(row["step"]), row.get("train_accuracy"), row.get("test_accuracy")
    )


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last whole line, wherever the writer may be."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"arm", "step"} <= row.keys():
            return row
    return None
