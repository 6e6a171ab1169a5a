"""The pictures of recorded results that the gallery shows, drawn from ``docs/results/*.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from drawing import RESULTS, STYLES, recorded, save, sheet
from matplotlib.ticker import LogLocator, NullFormatter


def draw_table1(wanted: set[str]) -> dict[str, Any]:
    """Steps and training time of every method to 85 % test accuracy, seed by seed."""
    record = recorded("table1")
    for experiment, name in {
        "mnist-table1": "table1-cross-entropy",
        "mnist-table1-mse": "table1-squared-error",
    }.items():
        _times(record[experiment]["arms"], RESULTS / f"{name}.png")
    return {}


def _times(arms: Mapping[str, Any], path: Path) -> None:
    """A row for each condition, a point for each seed; an arrow where training ended before."""
    figure, places = sheet(1, 2, (7.6, 0.9 + 0.33 * len(arms)), 9, sharey=True)
    titles = {"steps": "steps to 85 %", "seconds": "training time to 85 %, s"}
    for axes, (unit, title) in zip(places, titles.items(), strict=True):
        for row, arm in enumerate(arms.values()):
            pairs = list(zip(arm[unit]["by_seed"], arm[unit]["at_least"], strict=True))
            reached = [value for value, _ in pairs if value is not None]
            bounds = [least for value, least in pairs if value is None]
            style = 0 if row == 0 else 2 if "GrokAlign" in arm["title"] else 1
            color = STYLES[style]["color"]
            axes.plot(reached, [row] * len(reached), "o", color=color, alpha=0.5, markersize=5)
            axes.plot(bounds, [row] * len(bounds), ">", color=color, markersize=5, fillstyle="none")
            if len(reached) > len(bounds) + 1:  # what the bounds hide lies above the median
                middle = median(reached + bounds)
                axes.plot([middle, middle], [row - 0.3, row + 0.3], color=color, linewidth=2)
        axes.set(xscale="log", xlabel=title)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", alpha=0.25)
    places[0].set_yticks(range(len(arms)), [arm["title"] for arm in arms.values()])
    places[0].invert_yaxis()
    save(figure, path)
