"""The rows of one training as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class History:
    """Metrics over training steps: rows in, arrays out.

    ``history["test_accuracy"]`` is the column as a float64 array with one value for each row, NaN
    where a row has none; ``history.steps`` are the steps of the rows.

    Example:
        >>> history = History([{"step": 1, "loss": 2.0}, {"step": 10, "loss": 0.5}])
        >>> history.steps, history["loss"]
        (array([ 1, 10]), array([2. , 0.5]))
        >>> history.first_step("loss", 1.0, at_most=True)
        10
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it needs a ``step``."""
        self.rows.append(dict(row))

    @property
    def steps(self) -> NDArray[np.int64]:
        """The step of each row."""
        return np.array([row["step"] for row in self.rows], dtype=np.int64)

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they first appear; ``step`` is not one of them."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if name not in ("step", "arm", "seed")]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if self.rows and name not in self.names:
            raise KeyError(f"no column {name!r} in this history; it has {', '.join(self.names)}")
        values = (row.get(name) for row in self.rows)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no rows)"
        steps = self.steps
        return (
            f"History({len(self)} rows, steps {steps[0]} to {steps[-1]}: {', '.join(self.names)})"
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def first_step(self, name: str, target: float, *, at_most: bool = False) -> int | None:
        """The first recorded step at which a column has reached ``target``, or None.

        Reached means at or above the target, with ``at_most=True`` at or below it.
        """
        if name not in self:
            return None
        column = self[name]
        reached = column <= target if at_most else column >= target
        return int(self.steps[np.argmax(reached)]) if reached.any() else None
