"""Linear regions on a slice of input space over training, with a slider, and around its points.

A step of a slice is a few ten thousand small integers, compressed: an image of the operator norm,
the lines along which units have their kinks, the decision boundary, and the exact regions around
the slice's points. Corners are rounded to a grid finer than the pixels of a large screen and stored
as differences from the corner before.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.findings.panels import Regions
from grokscope.report.panels.drawing import Context, Drawing, NothingToDraw
from grokscope.report.panels.pictures import label_text, metrics_at, scaled, seed_note, thinned
from grokscope.report.templating import render
from grokscope.report.wording import count, number, unbroken

GRID = 2047  # across the slice; corners are whole numbers from 0
NEAR_GRID = 255  # across the square around a point
LEVELS = 63  # of color, between the smallest and the largest norm of the frame

# From dark to light in even steps of lightness, after magma of matplotlib (CC0) without its palest.
COLORS = [
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
_TOLD = ("train_accuracy", "test_accuracy")
_LARGEST_SHARE = 0.9  # of the room: the rest is for what does not change over training


@dataclass(frozen=True)
class Film:
    """What one arm shows: the slice's setting, and a frame for each step."""

    arm: str
    setting: Mapping[str, Any]
    steps: list[int]
    frames: list[Frame]


def draw_regions(panel: Regions, context: Context) -> list[Drawing]:
    """The slider with a slice for each arm."""
    arms = context.arms(panel.arms)
    room = _LARGEST_SHARE * context.region_bytes / max(1, len(arms)) / _alike(context)
    films = [film for arm in arms if (film := _film(panel, context, arm, room)) is not None]
    if not films:
        raise NothingToDraw(f"this run has stored no regions of slice {panel.slice}")
    steps = sorted({step for film in films for step in film.steps})
    norms = [end for film in films for frame in film.frames for end in frame.norms]
    data = {
        "steps": steps,
        "colors": COLORS,
        "norms": [min(norms), max(norms)],
        "films": [_content(panel, context, film, steps) for film in films],
    }
    first = films[0].setting
    images = scaled(np.asarray(first["x"], dtype=np.float32))
    html = render(
        "regions.html.j2",
        heading=panel.title,
        films=[(film.arm, context.run.arm_title(film.arm)) for film in films],
        colors=[context.color(film.arm).removeprefix("@") for film in films],
        labels=[label_text(value) for value in np.asarray(first["y"]).tolist()],
        radius=number(float(first["radius"])),
        height=0 if images is None else images.shape[1],
        width=0 if images is None else images.shape[2],
        channels=0 if images is None else images.shape[3],
        last=len(steps) - 1,
        last_step=count(steps[-1]),
        value=panel.value,
        note=seed_note(context, films[0].arm),
    )
    return [
        Drawing(
            title=panel.title,
            caption=panel.caption,
            html=html,
            data=data,
            reader="regions",
            wide=panel.wide,
        )
    ]


def _film(panel: Regions, context: Context, arm: str, room: float) -> Film | None:
    run, seed = context.run, context.run.seeds(arm)[0]
    setting = run.arrays(arm, seed, f"slice-{panel.slice}")
    pattern = re.compile(rf"slice-{panel.slice}-step-(\d+)")
    found = {
        int(match[1]): name
        for name in run.array_names(arm, seed)
        if (match := pattern.fullmatch(name))
    }
    if setting is None or not found:
        return None
    stored = {step: run.arrays(arm, seed, name) for step, name in found.items()}
    frames = {step: encoded(setting, frame) for step, frame in stored.items() if frame}
    taken = sum(len(frame.bytes) for frame in frames.values())
    steps = thinned(list(frames), max(2, int(len(frames) * room / taken)))
    return Film(arm, setting, steps, [frames[step] for step in steps])


def _content(panel: Regions, context: Context, film: Film, steps: list[int]) -> dict[str, Any]:
    history = context.run.histories_of(film.arm)[0]
    low, high = np.asarray(film.setting["domain"], dtype=np.float64)
    coordinates = np.asarray(film.setting["coordinates"], dtype=np.float64)
    last = film.steps[-1]
    places = [max(0, int(np.searchsorted(film.steps, step, side="right")) - 1) for step in steps]
    return {
        "points": ((coordinates - low) / (high - low)).round(4).tolist(),
        "radius": round(float(film.setting["radius"] / (high - low)[0]), 5),
        "labels": [label_text(value) for value in np.asarray(film.setting["y"]).tolist()],
        "images": pixels(film.setting["x"]).tolist(),
        "frames": [frame.content() for frame in film.frames],
        "frame": places,
        "metrics": [
            _told(film.frames[place], metrics_at(history, step, last, _TOLD))
            for place, step in zip(places, steps, strict=True)
        ],
    }


def _told(frame: Frame, metrics: str) -> str:
    """A frame in words, after the metrics of the run at its step."""
    low, high = map(number, frame.norms)
    own = f"{count(frame.count)} regions, operator norm {low} to {high}"
    told = f"{metrics}; {own}" if metrics else own
    return unbroken(told)


def _alike(context: Context) -> int:
    """How many panels of this kind the page shares its room among."""
    panels = context.run.spec.get("panels") or []
    return max(1, sum(isinstance(p, Mapping) and p.get("kind") == "regions" for p in panels))


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
    """Norms as color levels, evenly in their logarithm between the ends."""
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
