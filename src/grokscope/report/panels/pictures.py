"""Pictures over training with a slider: probe points beside the centroids that go with them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from grokscope.findings.panels import Pictures
from grokscope.report.panels.drawing import Context, Drawing, NothingToDraw
from grokscope.report.templating import render
from grokscope.report.wording import count, metric_name, metric_value
from grokscope.runs import History

_STEP = re.compile(r"step-(\d+)")
_LARGEST_SIDE = 64  # larger pictures are averaged down: they are shown no larger than this
_TOLD = ("train_accuracy", "test_accuracy", "centroid_alignment")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Frames:
    """The pictures of one arm: (s, m, height, width, channels) int8 at each of s steps."""

    arm: str
    steps: list[int]
    pixels: NDArray[np.int8]


def draw_pictures(panel: Pictures, context: Context) -> list[Drawing]:
    """The slider with its rows."""
    arms = context.arms(panel.arms)
    room = context.picture_bytes // max(1, len(arms))
    rows = [frames for arm in arms if (frames := _frames(panel, context, arm, room)) is not None]
    if not rows:
        raise NothingToDraw(f"this run has stored no {panel.key} that are pictures")
    given, labels = _given(panel, context, rows[0].arm)
    steps = sorted({step for row in rows for step in row.steps})
    strips = [_strip(panel.beside_title, "given", given)] if given is not None else []
    strips += [
        _strip(
            context.run.arm_title(row.arm),
            str(place),
            row.pixels[0],
            context.color(row.arm).removeprefix("@"),
        )
        for place, row in enumerate(rows)
    ]
    html = render(
        "pictures.html.j2",
        strips=strips,
        labels=labels,
        last=len(steps) - 1,
        last_step=count(steps[-1]),
        note=seed_note(context, rows[0].arm),
    )
    data = {
        "steps": steps,
        "given": None if given is None else _payload(given),
        "rows": [_row(panel, context, row, steps) for row in rows],
    }
    return [
        Drawing(title=panel.title, caption=panel.caption, html=html, data=data, wide=panel.wide)
    ]


def _frames(panel: Pictures, context: Context, arm: str, room: int) -> Frames | None:
    run, seed = context.run, context.run.seeds(arm)[0]
    found = [
        (int(name.removeprefix("step-")), pixels)
        for name in run.array_names(arm, seed)
        if _STEP.fullmatch(name) and (pixels := _stored(panel, context, arm, name)) is not None
    ]
    found = [(step, pixels) for step, pixels in found if pixels.shape == found[0][1].shape]
    if not found:
        return None
    found = thinned(found, max(2, room // found[0][1].size))
    return Frames(arm, [step for step, _ in found], np.stack([pixels for _, pixels in found]))


def _stored(panel: Pictures, context: Context, arm: str, name: str) -> NDArray[np.int8] | None:
    stored = context.run.arrays(arm, context.run.seeds(arm)[0], name)
    if stored is None or panel.key not in stored:
        return None
    return scaled(np.asarray(stored[panel.key], dtype=np.float32)[: panel.points])


def _given(
    panel: Pictures, context: Context, arm: str
) -> tuple[NDArray[np.int8] | None, list[str]]:
    """The points themselves and what they are labeled."""
    stored = None
    if panel.beside:
        stored = context.run.arrays(arm, context.run.seeds(arm)[0], panel.beside)
    if stored is None or "x" not in stored:
        return None, []
    pixels = scaled(np.asarray(stored["x"], dtype=np.float32)[: panel.points])
    labels = [
        label_text(value) for value in np.asarray(stored.get("y", []))[: panel.points].tolist()
    ]
    return pixels, labels


def _row(panel: Pictures, context: Context, row: Frames, steps: list[int]) -> dict[str, Any]:
    """What the script needs of one arm: for each step of the slider its frame and metrics."""
    history = context.run.histories[row.arm, context.run.seeds(row.arm)[0]]
    at = np.searchsorted(row.steps, steps, side="right") - 1
    return {
        **_payload(row.pixels),
        "frames": [max(0, int(place)) for place in at],
        "metrics": [metrics_at(history, step, row.steps[-1]) for step in steps],
    }


def scaled(values: NDArray[np.float32]) -> NDArray[np.int8] | None:
    """Pictures over their largest values, (m, height, width, channels); None if they are none."""
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        return None
    if min(values.shape[2:]) < 2:
        return None
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    while max(values.shape[2:]) > _LARGEST_SIDE and min(values.shape[2:]) >= 2:
        m, c, h, w = values.shape
        values = values[:, :, : h // 2 * 2, : w // 2 * 2]
        values = values.reshape(m, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    parts = np.round(127 * values / np.where(largest > 0, largest, 1))
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 1).astype(np.int8))


def _strip(title: str, row: str, pixels: NDArray[np.int8], color: str = "") -> dict[str, Any]:
    """What the template needs of a row of pictures (m, height, width, channels)."""
    many, height, width, _ = pixels.shape
    return {
        "title": title,
        "row": row,
        "color": color,
        "count": many,
        "height": height,
        "width": width,
    }


def _payload(pixels: NDArray[np.int8]) -> dict[str, Any]:
    height, width, channels = pixels.shape[-3:]
    return {
        "signed": bool((pixels < 0).any()),
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
        "height": height,
        "width": width,
        "channels": channels,
    }


def thinned(frames: list[Item], most: int) -> list[Item]:
    """At most ``most`` frames, evenly, the first and the last among them."""
    if len(frames) <= most:
        return frames
    return [frames[round(place)] for place in np.linspace(0, len(frames) - 1, most)]


def metrics_at(history: History, step: int, last: int, names: Sequence[str] = _TOLD) -> str:
    """The run's metrics at a step, in words."""
    if not len(history):
        return ""
    place = int(np.searchsorted(history.steps, step, side="right")) - 1
    row = history.rows[max(0, place)]
    told = [
        f"{metric_name(name)} {metric_value(name, row[name])}"
        for name in names
        if row.get(name) is not None
    ]
    stopped = f"stopped at step {count(last)}; " if step > last else ""
    return stopped + ", ".join(told)


def label_text(value: float) -> str:
    """A label as people write it; empty for what is no number."""
    return f"{value:g}" if isinstance(value, (int, float)) else ""


def seed_note(context: Context, arm: str) -> str:
    """Which seed is shown, where there are several."""
    seeds = context.run.seeds(arm)
    return f"Seed {seeds[0]} of {len(seeds)} seeds." if len(seeds) > 1 else ""
