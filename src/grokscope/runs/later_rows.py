"""What is measured of one training when it is over, at the checkpoints that it kept.

    after_training/ARM/seed-S.jsonl    a row for each checkpoint: its step and the values

The values join the rows of ``metrics.jsonl`` by their step when a run is read, so that it makes no
difference to a reader when they were measured. They stand in a file of their own for each
training: several processes measure at a time, and each file has one writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokscope.runs.files import inside
from grokscope.runs.rows import Row, RowFile
from grokscope.runs.side_files import AFTER_TRAINING
from grokscope.runs.tensors import Arrays


class LaterRows(Arrays):
    """The rows and tensors measured at one training's kept checkpoints.

    Args:
        run: path of the run directory.
        arm: name of the experiment's arm.
        seed: seed of the training.
    """

    def __init__(self, run: Path, arm: str, seed: int) -> None:
        super().__init__(run, arm, seed)
        self._file = RowFile(inside(run, AFTER_TRAINING, arm, f"seed-{seed}.jsonl"), ["step"])

    def open(self) -> list[Row]:
        """Prepare for writing after a stop at any moment; the whole rows that there are."""
        self._file.path.parent.mkdir(parents=True, exist_ok=True)
        self._file.trim()
        return self.read()

    def read(self) -> list[Row]:
        """The rows measured so far, in the order of their steps."""
        return self._file.read()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write the values of one checkpoint, ``row["step"]`` among them."""
        self._file.append(row)
