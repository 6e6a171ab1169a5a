"""The rows of one training as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.extras import require
from grokscope.shown import shown

# grey, vermilion, blue and green: told apart by the color-blind too (Okabe and Ito)
_PHASE_COLORS = {
    "fitting": "#555555",
    "memorized": "#D55E00",
    "fitted": "#D55E00",
    "generalizing": "#0072B2",
    "settled": "#009E73",
}


@shown()
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
        """The step of each row.

        Raises:
            ValueError: if a row has no step, or one that is no whole number, such as an epoch.
        """
        steps = np.array([row.get("step") for row in self.rows])
        if steps.dtype.kind not in "iu":
            steps = np.array([_whole(step) for step in steps])
        return steps.astype(np.int64)

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

    def _shown(self) -> dict[str, Any]:
        if not self.rows:
            return {"rows": 0, "steps": "none"}
        steps = self.steps
        found: dict[str, Any] = {"rows": len(self), "steps": f"{steps[0]:,} to {steps[-1]:,}"}
        for name in self.names:
            column = self[name]
            known = column[np.isfinite(column)]
            # the extremes over the probe points stand beside their mean
            if len(known) and not name.endswith(("_min", "_max")):
                found[name] = f"{known[0]:.4g} to {known[-1]:.4g}"
        return found

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

    def plot(self, *names: str, ax: Any = None, phases: bool = True) -> tuple[Any, Any]:
        """Columns over the logarithm of steps, on matplotlib.

        A column with ``NAME_min`` and ``NAME_max`` beside it has the band between them. Where
        training accuracy is known, the phases are shaded and named, as ``Monitor.phase`` has them.

        Args:
            names: the columns; by default the accuracies, or all where there are none.
            ax: matplotlib axes to draw on; new ones by default.
            phases: whether to shade the phases.

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
        if phases:
            self._shade_phases(axes)
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        return axes.figure, axes

    def _shade_phases(self, axes: Any) -> None:
        """Shade the phases in turn, each with its name at the top."""
        # Phases are told by a package above this one, which is found when a plot is drawn.
        try:
            above = import_module("grokscope.findings.phase")
            begun = above.begun(above.phases(self))
        except ValueError:  # there is no training accuracy
            return
        ends = [*(each.step for each in begun[1:]), self.steps[-1]]
        for each, end in zip(begun, ends, strict=True):
            color = _PHASE_COLORS[each.name]
            axes.axvspan(each.step, end, color=color, alpha=0.12, linewidth=0, zorder=0)
            axes.annotate(
                f" {each.name}",
                (each.step, 1),
                xycoords=("data", "axes fraction"),
                va="bottom",
                fontsize="x-small",
                color=color,
                rotation=20,
            )


def _whole(step: Any) -> int:
    """A step as an int, which a float may stand for; raise where that would lose something."""
    try:
        if int(step) == step:
            return int(step)
    except (TypeError, ValueError, OverflowError):  # nothing, no number, NaN, infinity
        pass
    raise ValueError(
        f"step must be a whole number in each row: got {step}; count the optimizer's steps, and "
        "take an epoch times the steps in one"
    )
