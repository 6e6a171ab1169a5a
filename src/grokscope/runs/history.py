"""The rows of one training as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.extras import require


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

    ``to_pandas``, ``to_xarray`` and ``plot`` hand the rows on; they import pandas, xarray and
    matplotlib when they are called.
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

    def to_pandas(self) -> Any:
        """The columns as a ``pandas.DataFrame`` indexed by ``step``; NaN where a row has no value.

        Raises:
            MissingExtra: if pandas is not installed (extra ``[frames]``).

        Example:
            >>> History([{"step": 1, "loss": 2.0}, {"step": 10, "loss": 0.5}]).to_pandas().loc[10]
            loss    0.5
            Name: 10, dtype: float64
        """
        pandas = require("pandas", "frames")
        index = pandas.Index(self.steps, name="step")
        return pandas.DataFrame({name: self[name] for name in self.names}, index=index)

    def to_xarray(self) -> Any:
        """The columns as an ``xarray.Dataset`` over the dimension ``step``.

        Raises:
            MissingExtra: if xarray is not installed (extra ``[frames]``).

        Example:
            >>> dict(History([{"step": 1, "loss": 2.0}]).to_xarray().sizes)
            {'step': 1}
        """
        xarray = require("xarray", "frames")
        columns = {name: ("step", self[name]) for name in self.names}
        return xarray.Dataset(columns, coords={"step": self.steps})

    def plot(self, *names: str, ax: Any = None) -> tuple[Any, Any]:
        """Columns over the logarithm of steps, on matplotlib.

        A column with ``NAME_min`` and ``NAME_max`` beside it has the band between them.

        Args:
            names: the columns; by default the accuracies, or all where there are none.
            ax: matplotlib axes to draw on; new ones by default.

        Returns:
            The figure and the axes.

        Raises:
            KeyError: if there is no such column.
            MissingExtra: if matplotlib is not installed (extra ``[figures]``).
        """
        pyplot = require("matplotlib.pyplot", "figures")
        accuracies = [name for name in self.names if name.endswith("accuracy")]
        axes = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        for name in names or accuracies or self.names:
            column = self[name]
            known = np.isfinite(column)
            (line,) = axes.plot(self.steps[known], column[known], label=name)
            if f"{name}_min" in self and f"{name}_max" in self:
                low, high = self[f"{name}_min"][known], self[f"{name}_max"][known]
                axes.fill_between(
                    self.steps[known], low, high, color=line.get_color(), alpha=0.15, linewidth=0
                )
        axes.set_xscale("symlog", linthresh=1)  # step 0 has a place on it
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        return axes.figure, axes
