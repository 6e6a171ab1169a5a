"""The look of all pictures of the cards: test accuracy in a strip above, the measure below."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# colors and dashes that stay apart under color blindness and in print
STYLES: Sequence[dict[str, Any]] = (
    {"color": "#5b6470", "linestyle": "--", "marker": "s"},
    {"color": "#1f6fb2", "linestyle": "-", "marker": "o"},
    {"color": "#c4501b", "linestyle": "-.", "marker": "^"},
    {"color": "#2a7f4f", "linestyle": ":", "marker": "v"},
    {"color": "#7b4fa3", "linestyle": "-", "marker": "D"},
    {"color": "#b8860b", "linestyle": "--", "marker": "P"},
    {"color": "#c2447f", "linestyle": "-.", "marker": "X"},
    {"color": "#111111", "linestyle": "-", "marker": "d"},
)
RESULTS = Path(__file__).parents[1] / "results"
Curve = tuple[Sequence[float], Sequence[float]]


def sheet(
    rows: int, columns: int, size: tuple[float, float], font: float = 8, **arguments: Any
) -> tuple[Any, Any]:
    """A figure of a size in inches, with axes open at the top and to the right."""
    plt.rcParams.update({"font.size": font, "axes.spines.top": False, "axes.spines.right": False})
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **arguments)


def start(rows: int = 2, columns: int = 1, **arguments: Any) -> tuple[Any, Any]:
    """A figure of the width of a page, with a strip on top where it has two rows."""
    ratios = {"height_ratios": [1, 2.4]} if rows == 2 else {}
    return sheet(rows, columns, (6.4, 3.4), 9, gridspec_kw=ratios, **arguments)


def recorded(name: str) -> Any:
    """What ``docs/results`` holds under a name."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def lines(axes: Any, curves: Mapping[str, Curve]) -> None:
    """Curves over training steps; step 0 is drawn at half a step, which a logarithm has."""
    for (label, (steps, values)), style in zip(curves.items(), STYLES, strict=False):
        axes.plot([max(s, 0.5) for s in steps], values, label=label, markersize=2.5, **style)
    axes.set_xscale("log")
    axes.grid(alpha=0.25)


def save(figure: Any, path: Path) -> None:
    """As PNG, of the same bytes for the same numbers."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def over_training(
    path: Path,
    title: str,
    accuracy: Mapping[str, Curve],
    curves: Mapping[str, Curve],
    above: str = "test accuracy",
) -> None:
    """The picture of most cards."""
    figure, (top, axes) = start(sharex=True)
    lines(top, accuracy)
    top.set_ylabel(above)
    top.set_ylim(0, 1.03)
    lines(axes, curves)
    axes.set_ylabel(title)
    axes.set_xlabel("training step (step 0 at the left edge)")
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def photograph(page: Path, path: Path) -> None:
    """The top of a page as a headless Chromium shows it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), "chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--window-size=1200,1240", "--virtual-time-budget=5000", f"--screenshot={path}"]
    subprocess.run([program, *options, page.resolve().as_uri()], check=True, capture_output=True)
