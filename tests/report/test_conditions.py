"""Conditions can be told apart: by color whatever one's eyes see, by marker and dash, and many."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Polygon

from grokscope.report.figure_files import plot_figure
from grokscope.report.plotting import MARKERS, NUM_ARM_COLORS, dash, marker
from grokscope.report.templating import source
from grokscope.runs import RunDirectory
from tests.report import made_up_runs
from tests.report.drawing import draw, figure_of

# How people without one kind of cone see linear sRGB: Machado, Oliveira and Fernandes 2009.
VISION = {
    "trichromat": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# From linear sRGB to Oklab (Ottosson 2020), in which distances are those that are seen.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def palette(theme: str, name: str) -> np.ndarray:
    """Colors of a theme in linear sRGB, as the style sheet has them: the light theme first."""
    found = re.findall(rf"--{name}: #([0-9a-f]{{6}});", source("report.css"))
    half = len(found) // 2
    values = found[:half] if theme == "light" else found[half:]
    channels = np.array([[int(v[i : i + 2], 16) / 255 for i in (0, 2, 4)] for v in values])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def apart(colors: np.ndarray, vision: str) -> float:
    """The smallest distance between two colors as someone sees them."""
    seen = np.clip(colors @ np.array(VISION[vision]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(TO_CONES).T) @ np.array(TO_LAB).T
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(distances[np.triu_indices(len(lab), 1)].min())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_no_two_colors_look_alike(theme: str, vision: str) -> None:
    colors = palette(theme, r"arm\d")
    assert len(colors) == NUM_ARM_COLORS
    # Ten times a just noticeable difference; it was 0.007 to protanopes.
    assert apart(colors, vision) > 0.1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colors_stand_out_from_the_paper(theme: str) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    colors, paper = palette(theme, r"arm\d") @ weights, palette(theme, "paper") @ weights
    contrast = (np.maximum(colors, paper) + 0.05) / (np.minimum(colors, paper) + 0.05)
    assert contrast.min() >= 3
    assert contrast[0] >= 4.5  # links are written in it


def test_many_arms_differ_in_marker_and_dash_as_well() -> None:
    looks = [(i % NUM_ARM_COLORS, marker(i), dash(i)) for i in range(440)]
    assert len(set(looks)) == 440
    first = looks[:NUM_ARM_COLORS]
    assert len({mark for _, mark, _ in first}) == len(first)
    assert all(np.abs(np.array(outline)).max() <= 5.5 for outline in MARKERS.values())


def test_twelve_conditions_have_twelve_looks(tmp_path: Path) -> None:
    arms = {f"arm-{i}": {"title": f"Condition {i}"} for i in range(12)}
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(arms=arms), "cpu", [0]) as run:
        for i, arm in enumerate(arms):
            for step in range(20):
                run.trial(arm, 0).append({"step": step, "weight_norm": step + i}, {})
    (drawing,) = draw(tmp_path / "run", kind="curves", title="N", columns=["weight_norm"])
    figure_of(drawing)
    traces = drawing.figure["data"]
    looks = {(t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"]) for t in traces}
    assert len(looks) == 12
    assert len({trace["marker"]["symbol"] for trace in traces}) == len(MARKERS)
    assert all(trace["marker"]["maxdisplayed"] == 8 for trace in traces)
    # The legend shows what the line does.
    shown = {(key.color, key.dash, key.marker) for key in drawing.keys}
    assert shown == looks


def test_bars_of_more_conditions_than_colors_have_the_markers_of_their_lines(
    tmp_path: Path,
) -> None:
    arms = {f"arm-{i}": {"title": f"Condition {i}"} for i in range(NUM_ARM_COLORS + 1)}
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(arms=arms), "cpu", [0]) as run:
        for i, arm in enumerate(arms):
            trial = run.trial(arm, 0)
            for step in (0, 10, 20 + i, 40):
                accuracies = {"train_accuracy": step / 10, "test_accuracy": step / (20 + i)}
                row = {name: min(1.0, value) for name, value in accuracies.items()}
                trial.append({"step": step, **row}, {})
    (drawing,) = draw(
        tmp_path / "run", kind="curves", title="A", columns=["test_accuracy"], spans="delay"
    )
    figure_of(drawing)
    shapes = drawing.figure["layout"]["shapes"]
    marks = [shape["path"] for shape in shapes if shape["type"] == "path"]
    assert len(marks) == len(set(marks)) == NUM_ARM_COLORS + 1
    pale = {shape["fillcolor"] for shape in shapes if shape.get("layer") == "below"}
    assert {color.split("/")[1] for color in pale} == {"0.0444"}
    canvas = plot_figure(drawing)
    canvas.savefig(io.BytesIO(), format="svg")
    patches = [p for p in canvas.axes[0].patches if isinstance(p, Polygon)]
    assert len(patches) == NUM_ARM_COLORS + 1
