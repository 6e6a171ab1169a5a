"""Files of rows, one JSON object a line: append, read, trim.

Only whole lines count. A process killed while it writes can leave a torn last line; it is cut
off when the file is opened for writing, and ignored when the file is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from grokscope.runs.files import RunError, read_bytes, write_atomically, write_failure

Row = dict[str, Any]

_LARGEST = 2**63
KEYS = ("arm", "seed", "step")  # of each row of a run
METRICS, TIMING = "metrics.jsonl", "timing.jsonl"  # the files of a run that hold them


def _plain(value: Any) -> Any:
    """Numbers that JSON does not know (NaN, infinity) become null, which every reader takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class RowFile:
    """A file of rows, appended one by one.

    Args:
        path: the file; it is created with the first row.
        keys: what each row has to have; a row without them is damaged.
    """

    def __init__(self, path: Path, keys: Sequence[str] = ()) -> None:
        self.path = path
        self.keys = tuple(keys)
        self._hash, self._hashed = hashlib.sha256(), 0

    def trim(self) -> None:
        """Cut off a torn last line."""
        if self.path.exists():
            content = read_bytes(self.path)
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                self.truncate(whole)

    def truncate(self, size: int) -> None:
        """Keep the first ``size`` bytes."""
        self._check_place()
        self._hash, self._hashed = hashlib.sha256(), 0
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(size)

    def drop(self, condition: Callable[[Row], bool]) -> None:
        """Take back the rows that meet a condition, wherever they stand."""
        self._check_place()
        dropped = [condition(row) for row in self.read()]
        if any(dropped):
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line, drop in zip(lines, dropped, strict=False) if not drop]
            write_atomically(self.path, b"".join(kept))
            self._hash, self._hashed = hashlib.sha256(), 0

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; a row that does not fit on the disk is taken back whole.

        Raises:
            RunError: if the file is a link, or cannot be written.
        """
        self._check_place()
        line = json.dumps({key: _plain(value) for key, value in row.items()}) + "\n"
        before = self.size()
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            with suppress(OSError):  # a torn line that stays is trimmed on the next opening
                self.truncate(before)
            raise write_failure(self.path, error) from error

    def digest(self, size: int | None = None) -> str:
        """SHA-256 of the first ``size`` bytes, or of all.

        All are asked for at each checkpoint: only what was written since the last is read then.
        """
        if not self.path.exists():
            return hashlib.sha256().hexdigest()
        with self.path.open("rb") as file:
            if size is not None:
                return hashlib.sha256(file.read(size)).hexdigest()
            file.seek(self._hashed)
            new = file.read()
        self._hash.update(new)
        self._hashed += len(new)
        return self._hash.hexdigest()

    def read(self) -> list[Row]:
        """All whole rows, in the order they were written.

        Raises:
            RunError: if a line that is not the torn last one is not a row: a JSON object of
                numbers and nulls, with the keys that each row has.
        """
        if not self.path.exists():
            return []
        try:
            content = read_bytes(self.path)
        except OSError as error:
            raise RunError(f"could not read {self.path}: {error.strerror or error}") from None
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        return [self._row(line, number) for number, line in enumerate(lines, 1)]

    def _check_place(self) -> None:
        """Raise where what is written would go through a link, perhaps out of the run."""
        if self.path.is_symlink():
            raise RunError(
                f"{self.path} is a link, through which no rows are written: put the file itself "
                "there"
            )

    def _row(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no text at all
            row = None
        if not isinstance(row, dict):
            raise RunError(f"{self.path}, line {number} is not a JSON object")
        if fault := next(_faults(row, self.keys), None):
            raise RunError(f"{self.path}, line {number} is damaged: {fault}")
        return row


def _faults(row: Row, keys: Sequence[str]) -> Iterator[str]:
    """What is wrong with a row."""
    for key in keys:
        if key not in row:
            yield f"it has no {key}"
    for key, value in row.items():
        if key == "arm":
            if not isinstance(value, str):
                yield "arm is not a name"
        elif key in ("seed", "step"):
            if type(value) is not int or not -_LARGEST <= value < _LARGEST:
                yield f"{key} is not a whole number"
            elif key == "step" and value < 0:
                yield "step is below 0"
        elif value is not None and not isinstance(value, (int, float)):
            yield f"{key} is not a number"
        elif value is not None and not abs(value) <= sys.float_info.max:
            yield f"{key} is not a finite number; one that is not stands as null"
