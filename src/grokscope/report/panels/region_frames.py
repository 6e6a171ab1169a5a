"""One step of a slice's linear regions as a few ten thousand small integers, compressed.

What is drawn: an image of the operator norm, the lines along which units bend, the decision
boundary, and the exact regions around the slice's points. Corners are rounded to a grid finer than
the pixels of a large screen and stored as differences from the corner before.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.report.panels.pictures import scaled

GRID = 2047  # across the slice; corners are whole numbers from 0
NEAR_GRID = 255  # across the square around a point
LEVELS = 63  # of colour, between the smallest and the largest norm of the frame

# From dark to light in even steps of lightness, after magma of matplotlib (CC0) without its palest.
COLOURS = [
    "#0d0829",
    "#251255",
    "#4c117a",
    "#762181",
    "#a1307e",
    "#cd4071",
    "#ef5d5e",
    "#fb8861",
    "#feb47b",
    "#fed799",
]

Floats = NDArray[np.float64]
Small = NDArray[np.int16]


@dataclass(frozen=True)
class Frame:
    """An encoded step.

    Attributes:
        bytes: the numbers, the lower bytes of all and then the upper ones, deflated.
        sizes: how many numbers of each kind, in the order in which they stand in ``bytes``.
        norms: the smallest and the largest operator norm.
        count: the number of regions.
    """

    bytes: bytes
    sizes: dict[str, int]
    norms: tuple[float, float]
    count: int

    def content(self) -> dict[str, Any]:
        """The frame as JSON."""
        return {
            "numbers": base64.b64encode(self.bytes).decode(),
            "sizes": self.sizes,
            "norms": [float(f"{norm:.4g}") for norm in self.norms],
        }


def encoded(setting: Mapping[str, Any], stored: Mapping[str, Any]) -> Frame:
    """A stored step (see the analysis ``regions``) as a frame."""
    low, high = np.asarray(setting["domain"], dtype=np.float64)
    radius = float(setting["radius"])
    norms, near_norms = _floats(stored["norms"]), _floats(stored["near_norms"])
    every = np.concatenate([norms.ravel(), near_norms])
    every = every[every > 0] if (every > 0).any() else np.ones(1)
    ends = float(every.min()), float(every.max())
    parts: dict[str, Small] = {"image": np.diff(_levels(norms, ends).ravel(), prepend=0)}
    lines = _placed(_floats(stored["lines"]), low, high, GRID)
    parts |= _paths("lines", lines, np.asarray(stored["line_start"]))
    parts["boundary"] = _placed(_floats(stored["boundary"]), low, high, GRID).ravel()
    corners = _placed(_floats(stored["near_corners"]), -radius, radius, NEAR_GRID)
    parts |= _paths("cells", corners, np.asarray(stored["near_start"]))
    parts["cell_levels"] = _levels(near_norms, ends)
    parts["cell_points"] = np.asarray(stored["near_point"]).astype(np.int16)
    near = _placed(_floats(stored["near_boundary"]), -radius, radius, NEAR_GRID)
    parts["near_boundary"] = near.ravel()
    parts["near_boundary_points"] = np.asarray(stored["near_boundary_point"]).astype(np.int16)
    for name in ("centroids", "rows"):
        parts[name] = pixels(stored[name])
    numbers = np.concatenate([part.astype("<i2") for part in parts.values()])
    # Most upper bytes are alike: set apart they take next to nothing.
    planes = numbers.view(np.uint8).reshape(-1, 2).T.tobytes()
    sizes = {name: len(part) for name, part in parts.items()}
    return Frame(zlib.compress(planes, 9), sizes, ends, int(stored["count"]))


def pixels(values: Any) -> Small:
    """Pictures one after the other, each scaled to its own largest value; empty if none are."""
    found = scaled(np.asarray(values, dtype=np.float32))
    return np.zeros(0, dtype=np.int16) if found is None else found.ravel().astype(np.int16)


def _floats(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _placed(points: Floats, low: Any, high: Any, grid: int) -> Small:
    """Coordinates on a grid from ``low`` to ``high``."""
    return np.rint((points - low) / (high - low) * grid).astype(np.int16)


def _levels(norms: Floats, ends: tuple[float, float]) -> Small:
    """Norms as colour levels, evenly in their logarithm between the ends."""
    low, high = np.log(ends)
    if high <= low:
        return np.zeros(norms.shape, dtype=np.int16)
    share = (np.log(np.maximum(norms, ends[0])) - low) / (high - low)
    return np.rint(LEVELS * share).astype(np.int16)


def _paths(name: str, corners: Small, start: NDArray[np.integer[Any]]) -> dict[str, Small]:
    """Paths by their numbers of corners and, for each axis, the steps from corner to corner."""
    steps = np.diff(corners, axis=0, prepend=np.zeros((1, 2), dtype=np.int16))
    return {
        f"{name}_lengths": np.diff(start).astype(np.int16),
        f"{name}_x": steps[:, 0],
        f"{name}_y": steps[:, 1],
    }
