"""Linear regions on a slice of input space over training, with a slider, and around its points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from grokscope.report.panels.base import Context, Drawing, NothingToDraw, Panel
from grokscope.report.panels.pictures import figures_at, label_text, scaled, seed_note, thinned
from grokscope.report.panels.region_frames import COLOURS, Frame, encoded, pixels
from grokscope.report.templating import render
from grokscope.report.wording import count, number

_TOLD = ("train_accuracy", "test_accuracy")
_LARGEST_SHARE = 0.9  # of the room: the rest is for what does not change over training


@dataclass(frozen=True)
class Film:
    """What one arm shows: the slice's setting, and a frame for each step."""

    arm: str
    setting: Mapping[str, Any]
    steps: list[int]
    frames: list[Frame]


class Regions(Panel):
    """The linear regions of a slice for each arm at the step of a slider.

    It reads what the analysis ``regions`` stores. Regions are coloured by the norm of their
    operator; under each slice stand its points with their centroids, the rows of their labels in
    the Jacobian, and the regions close to them. With several seeds the first is shown. Where all
    frames together would take too much of the page, they are thinned evenly.

    Attributes:
        slice: number of the slice.
        arms: the arms to show; all by default.
        value: what the colour means.
    """

    kind: Literal["regions"]
    title: str = "A slice through input space"
    wide: bool = True
    slice: int = 0
    arms: list[str] | None = None
    value: str = "operator norm"

    def draw(self, context: Context) -> list[Drawing]:
        """The slider with a slice for each arm."""
        arms = context.arms(self.arms)
        room = _LARGEST_SHARE * context.region_bytes / max(1, len(arms)) / _alike(context)
        films = [film for arm in arms if (film := self._film(context, arm, room)) is not None]
        if not films:
            raise NothingToDraw(f"this run has stored no regions of slice {self.slice}")
        steps = sorted({step for film in films for step in film.steps})
        norms = [end for film in films for frame in film.frames for end in frame.norms]
        data = {
            "steps": steps,
            "colours": COLOURS,
            "norms": [min(norms), max(norms)],
            "films": [self._content(context, film, steps) for film in films],
        }
        first = films[0].setting
        images = scaled(np.asarray(first["x"], dtype=np.float32))
        html = render(
            "regions.html.j2",
            films=[(film.arm, context.subject.arm_title(film.arm)) for film in films],
            colours=[context.colour(film.arm).removeprefix("@") for film in films],
            labels=[label_text(value) for value in np.asarray(first["y"]).tolist()],
            radius=number(float(first["radius"])),
            height=0 if images is None else images.shape[1],
            width=0 if images is None else images.shape[2],
            channels=0 if images is None else images.shape[3],
            last=len(steps) - 1,
            last_step=count(steps[-1]),
            value=self.value,
            note=seed_note(context, films[0].arm),
        )
        return [
            Drawing(
                title=self.title,
                look_for=self.look_for,
                html=html,
                data=data,
                reader="regions",
                wide=self.wide,
            )
        ]

    def _film(self, context: Context, arm: str, room: float) -> Film | None:
        run, seed = context.subject.run, context.subject.seeds(arm)[0]
        setting = run.arrays(arm, seed, f"slice-{self.slice}")
        pattern = re.compile(rf"slice-{self.slice}-step-(\d+)")
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

    def _content(self, context: Context, film: Film, steps: list[int]) -> dict[str, Any]:
        history = context.subject.of(film.arm)[0]
        low, high = np.asarray(film.setting["domain"], dtype=np.float64)
        coordinates = np.asarray(film.setting["coordinates"], dtype=np.float64)
        last = film.steps[-1]
        places = [
            max(0, int(np.searchsorted(film.steps, step, side="right")) - 1) for step in steps
        ]
        return {
            "points": ((coordinates - low) / (high - low)).round(4).tolist(),
            "radius": round(float(film.setting["radius"] / (high - low)[0]), 5),
            "labels": [label_text(value) for value in np.asarray(film.setting["y"]).tolist()],
            "images": pixels(film.setting["x"]).tolist(),
            "frames": [frame.content() for frame in film.frames],
            "frame": places,
            "figures": [
                _told(film.frames[place], figures_at(history, step, last, _TOLD))
                for place, step in zip(places, steps, strict=True)
            ],
        }


def _told(frame: Frame, figures: str) -> str:
    """A frame in words, after the figures of the run at its step."""
    low, high = map(number, frame.norms)
    own = f"{count(frame.count)} regions, operator norm {low} to {high}"
    told = f"{figures}; {own}" if figures else own
    return told.replace(" %", "\N{NO-BREAK SPACE}%")


def _alike(context: Context) -> int:
    """How many panels of this kind the page shares its room among."""
    panels = context.subject.spec.get("panels") or []
    return max(1, sum(isinstance(p, Mapping) and p.get("kind") == "regions" for p in panels))
