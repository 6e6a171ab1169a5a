"""What all plots share: colors, markers and dashes, the step axis, the frame around the curves.

A figure is a plain mapping that plotly.js draws. Its colors are names such as ``@arm0`` or
``@ink/0.2``; the page resolves them, so that one figure serves the light and the dark theme and an
arm has the same color everywhere. An arm has a marker and a dash of its own as well, for those who
see few colors, and for more than eight arms.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Figure = dict[str, Any]

NUM_ARM_COLORS = 8
NUM_LAYER_COLORS = 12
HEIGHT = 360
MARGIN = {"l": 58, "r": 14, "t": 14, "b": 48}
LANE = 26
MAX_MARKERS = 8  # of a line, so that they do not hide it
_DASHES = ("solid", "dot", "dash", "longdash", "dashdot")

# Outlines in a square from -5 to 5, y upwards, by plotly.js's names. Their number, that of the
# colors and that of the dashes have no common factor: 440 arms differ.
MARKERS: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple(
        (round(4.5 * math.sin(math.tau * i / 24), 2), round(4.5 * math.cos(math.tau * i / 24), 2))
        for i in range(24)
    ),
    "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    "diamond": ((0, -5), (5, 0), (0, 5), (-5, 0)),
    "triangle-up": ((-5, -4), (5, -4), (0, 5)),
    "x": (
        *((-5, -3), (-3, -5), (0, -2), (3, -5), (5, -3), (2, 0)),
        *((5, 3), (3, 5), (0, 2), (-3, 5), (-5, 3), (-2, 0)),
    ),
    "triangle-down": ((-5, 4), (5, 4), (0, -5)),
    "star": tuple(
        (
            round((2.2 if i % 2 else 5.5) * math.sin(math.tau * i / 10), 2),
            round((2.2 if i % 2 else 5.5) * math.cos(math.tau * i / 10), 2),
        )
        for i in range(10)
    ),
    "cross": (
        *((-5, -1.7), (-1.7, -1.7), (-1.7, -5), (1.7, -5), (1.7, -1.7), (5, -1.7)),
        *((5, 1.7), (1.7, 1.7), (1.7, 5), (-1.7, 5), (-1.7, 1.7), (-5, 1.7)),
    ),
    "hourglass": ((-4, -5), (4, -5), (-4, 5), (4, 5)),
    "bowtie": ((-5, -4), (-5, 4), (5, -4), (5, 4)),
    "pentagon": ((0, 5), (4.8, 1.5), (2.9, -4), (-2.9, -4), (-4.8, 1.5)),
}


def marker(index: int) -> str:
    """The marker of the n-th arm."""
    return list(MARKERS)[index % len(MARKERS)]


def marker_path(name: str) -> str:
    """A marker as the path of an SVG, whose y points down."""
    return "M" + "L".join(f"{x:g},{-y:g}" for x, y in MARKERS[name]) + "Z"


def css_color(name: str) -> str:
    """A color of a figure in CSS, which follows the theme.

    Example:
        >>> css_color("@arm0"), css_color("#e69f00")
        ('var(--arm0)', '#e69f00')
    """
    return f"var(--{name[1:]})" if name.startswith("@") else name


def arm_color(index: int, opacity: float | None = None) -> str:
    """The name of an arm's color."""
    name = f"@arm{index % NUM_ARM_COLORS}"
    return name if opacity is None else f"{name}/{opacity:g}"


def shade(opacity: float, number: int) -> float:
    """The opacity of one of so many areas that lie on each other: together they hide no curve.

    Example:
        >>> shade(0.1, 3), shade(0.1, 8)
        (0.1, 0.05)
    """
    return round(opacity * min(1.0, 4 / max(1, number)), 4)


def layer_color(place: int, length: int) -> str:
    """The name of the n-th of so many colors on a perceptual scale (viridis).

    Example:
        >>> [layer_color(place, 3) for place in range(3)]
        ['@layer0', '@layer6', '@layer11']
    """
    return f"@layer{round((NUM_LAYER_COLORS - 1) * place / max(1, length - 1))}"


def dash(index: int) -> str:
    """The dash of the n-th line."""
    return _DASHES[index % len(_DASHES)]


def plain(text: object) -> str:
    """Text that plotly.js shows as it is, markup included."""
    return html.escape(str(text), quote=False)


def numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers for a figure: six digits are plenty, and what is not finite is a gap."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


class StepAxis:
    """Steps on a logarithmic axis, on which step 0 stands a little to the left of the first.

    The network before training has no place on a logarithmic axis, but the curves start
    from its values, so step 0 is drawn at 0.4 of the first positive step and labeled 0.

    Example:
        >>> StepAxis([[0, 1, 10]]).places([0, 1, 10])
        [0.4, 1, 10]
    """

    def __init__(self, steps: Iterable[Sequence[int] | NDArray[np.int64]]) -> None:
        seen = [int(step) for part in steps for step in part]
        positive = [step for step in seen if step > 0]
        self.has_zero = 0 in seen
        self.smallest = float(min(positive, default=1))
        self.zero = 0.4 * self.smallest
        self.first = self.zero if self.has_zero else self.smallest
        self.last = float(max(positive, default=1))

    def places(self, steps: Iterable[int]) -> list[float]:
        """Where each step stands."""
        return [int(step) if step > 0 else self.zero for step in steps]

    def layout(self) -> dict[str, Any]:
        """The axis for a figure's layout."""
        return {
            "type": "log",
            "title": axis_title("training step"),
            "range": [math.log10(self.first) - 0.04, math.log10(max(self.last, 10)) + 0.04],
            "tickvals": self._ticks(),
            "ticktext": [short_count(value) for value in self._ticks()],
            **axis_style(),
        }

    def zero_label(self) -> list[dict[str, Any]]:
        """The annotation that labels step 0."""
        if not self.has_zero:
            return []
        return [
            {
                "text": "0",
                "x": math.log10(self.zero),
                "xref": "x",
                "y": 0,
                "yref": "paper",
                "yanchor": "top",
                "yshift": -5,
                "showarrow": False,
                "font": {"color": "@muted", "size": 12},
            }
        ]

    def _ticks(self) -> list[float]:
        low = math.ceil(math.log10(self.smallest) - 1e-9)
        high = math.floor(math.log10(max(self.last, 10)) + 1e-9)
        return [float(10**power) for power in range(low, high + 1)]


def short_count(value: float) -> str:
    """A count for an axis.

    Example:
        >>> [short_count(value) for value in (0, 10, 2_500, 1_000_000)]
        ['0', '10', '2.5k', '1M']
    """
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def axis_title(text: str) -> dict[str, Any]:
    """The title of an axis."""
    return {"text": plain(text), "standoff": 8, "font": {"size": 13, "color": "@muted"}}


def log_ticks(values: Iterable[float]) -> dict[str, Any]:
    """Ticks at powers of ten that span positive values, at most eight of them.

    Example:
        >>> log_ticks([0.0003, 40.0])["ticktext"]
        ['10⁻⁴', '0.001', '0.01', '0.1', '1', '10', '100']
        >>> log_ticks([0.0])
        {}
    """
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return {}
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    powers = range(low, high + 1, max(1, math.ceil((high - low) / 7)))
    return {"tickvals": [10.0**power for power in powers], "ticktext": list(map(_power, powers))}


def _power(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:,g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def axis_style() -> dict[str, Any]:
    """Lines and letters of any axis."""
    return {
        "gridcolor": "@grid",
        "linecolor": "@line",
        "tickcolor": "@line",
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "zeroline": False,
        "tickfont": {"color": "@muted", "size": 12},
    }


def layout(
    xaxis: dict[str, Any],
    yaxis: dict[str, Any],
    *,
    lanes: int = 0,
    height: int = HEIGHT,
    columns: tuple[str, ...] = ("step", "value"),
) -> dict[str, Any]:
    """A figure's layout: the frame with room for ``lanes`` bars above the curves.

    ``columns`` are the names of the coordinates where the plot is saved as CSV; an x named "step"
    stands in the traces' ``customdata``, since step 0 has a place of its own on the axis.
    """
    top = MARGIN["t"] + LANE * lanes
    return {
        "height": height + LANE * lanes,
        "margin": {**MARGIN, "t": top},
        "meta": [*columns],
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "@clear",
        "plot_bgcolor": "@clear",
        "font": {"color": "@ink", "size": 13},
        "modebar": {"bgcolor": "@clear", "color": "@muted", "activecolor": "@ink"},
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@line", "font": {"color": "@ink"}},
        "xaxis": xaxis,
        "yaxis": {**axis_style(), **yaxis},
        "shapes": [],
        "annotations": [],
    }


def lane_place(lane: int) -> tuple[float, float]:
    """Bottom and top of a bar above the curves, as fractions of the height of the frame."""
    inner = HEIGHT - MARGIN["t"] - MARGIN["b"]
    bottom = 6 + LANE * lane
    return 1 + bottom / inner, 1 + (bottom + LANE - 6) / inner
