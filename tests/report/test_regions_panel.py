"""Linear regions on the page: what is encoded, and what a browser makes of it."""

from __future__ import annotations

import base64
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grokscope.experiments.analyses.region_pictures import picture, setting
from grokscope.findings.panels import panel_from
from grokscope.report import panels, write_report
from grokscope.report.panels import Drawing, NothingToDraw
from grokscope.report.panels.regions import GRID, LEVELS, NEAR_GRID, encoded
from tests.report import made_up_regions as made_up
from tests.report.browser import Browser, Tab
from tests.report.test_panels import context


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.run(tmp_path_factory.mktemp("regions") / "run")


def draw(path: Path, **options: Any) -> Drawing:
    (drawing,) = panels.draw(panel_from(made_up.PANEL), context(path, **options))
    return drawing


def decoded(frame: dict[str, Any]) -> dict[str, np.ndarray]:
    """A frame read back, its differences summed."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(frame["numbers"])), np.uint8)
    low, high = planes.reshape(2, -1).astype(np.int32)
    numbers = (low | high << 8).astype(np.uint16).view(np.int16)
    parts, at = {}, 0
    for name, size in frame["sizes"].items():
        part = numbers[at : at + size].astype(int)
        parts[name] = part.cumsum() if name == "image" or name[-2:] in ("_x", "_y") else part
        at += size
    assert at == len(numbers)
    return parts


def test_a_frame_holds_the_picture_to_half_a_step_of_its_grids(path: Path) -> None:
    data = draw(path).data
    assert data is not None
    assert data["steps"] == [0, 10, 100, 1000]
    arrays = made_up.stored("grokalign", 10)
    frame = data["films"][1]["frames"][1]
    parts = decoded(frame)
    _, _, plane = made_up.points()
    low, high = plane.polygon.amin(0).numpy(), plane.polygon.amax(0).numpy()
    corners = np.stack([parts["lines_x"], parts["lines_y"]], axis=1) / GRID * (high - low) + low
    step = (high - low).max() / GRID
    assert np.abs(corners - arrays["lines"].numpy()).max() <= 0.501 * step
    assert parts["lines_lengths"].tolist() == arrays["line_start"].diff().tolist()
    near = np.stack([parts["cells_x"], parts["cells_y"]], axis=1) / NEAR_GRID
    near = (2 * near - 1) * made_up.RADIUS
    apart = np.abs(near - arrays["near_corners"].numpy()).max()
    assert apart <= 0.501 * 2 * made_up.RADIUS / NEAR_GRID
    assert parts["cell_points"].tolist() == arrays["near_point"].tolist()
    boundary = parts["boundary"].reshape(-1, 2, 2) / GRID * (high - low) + low
    assert np.abs(boundary - arrays["boundary"].numpy()).max() <= 0.501 * step


def test_colors_are_the_norms_evenly_in_their_logarithm(path: Path) -> None:
    data = draw(path).data
    assert data is not None
    ends = [end for film in data["films"] for frame in film["frames"] for end in frame["norms"]]
    assert data["norms"] == pytest.approx([min(ends), max(ends)], rel=1e-3)
    arrays = made_up.stored("baseline", 100)
    frame = data["films"][0]["frames"][2]
    low, high = frame["norms"]
    for name, exact in (("image", "norms"), ("cell_levels", "near_norms")):
        norms = low * (high / low) ** (decoded(frame)[name] / LEVELS)
        ratio = norms / arrays[exact].numpy().ravel()
        assert np.abs(np.log(ratio)).max() < 0.51 * math.log(high / low) / LEVELS + 1e-3


def test_each_arm_shows_its_latest_frame_and_says_when_it_stopped(path: Path) -> None:
    drawing = draw(path)
    assert drawing.data is not None
    baseline, grokalign = drawing.data["films"]
    assert baseline["frame"] == [0, 1, 2, 3]
    assert grokalign["frame"] == [0, 1, 2, 2]
    assert grokalign["metrics"][3].startswith("stopped at step 100; train accuracy")
    assert "regions, operator norm" in grokalign["metrics"][0]
    x, _, plane = made_up.points()
    place = (plane.coordinates(x).numpy() / float(plane.polygon.max()) + 1) / 2
    assert np.allclose(baseline["points"], place, atol=1e-3)
    assert baseline["labels"] == ["2", "0", "3"]


def test_frames_are_thinned_to_their_share_of_the_page(path: Path) -> None:
    whole = draw(path).data
    assert whole is not None
    sizes = [len(f["numbers"]) * 3 / 4 for film in whole["films"] for f in film["frames"]]
    assert sum(sizes) < 1_700_000
    room = 0.7 * sum(sizes)
    few = draw(path, region_bytes=int(room)).data
    assert few is not None
    kept = [len(f["numbers"]) * 3 / 4 for film in few["films"] for f in film["frames"]]
    assert len(kept) < len(sizes)
    assert sum(kept) <= room
    assert {few["steps"][0], few["steps"][-1]} == {0, 1000}


def test_inputs_that_are_no_pictures_leave_their_rows_out(tmp_path: Path) -> None:
    drawing = draw(made_up.run(tmp_path / "run", shape=None))
    assert drawing.data is not None
    assert drawing.data["films"][0]["images"] == []
    assert "lens" in str(drawing.html)
    assert "centroids" not in str(drawing.html)


def test_a_flat_network_has_one_color_and_a_dead_one_too() -> None:
    x, y, plane = made_up.points()
    fixed = setting(x, y, plane, made_up.RADIUS, None)
    for factor in (1.0, 0.0):
        flat = torch.nn.Linear(6, 4)
        with torch.no_grad():
            flat.weight *= factor
        frame = encoded(fixed, picture(flat, x, y, plane, made_up.RADIUS, None))
        parts = decoded(frame.content())
        assert not parts["image"].any()
        assert len(parts["lines_x"]) == 0
        assert frame.norms[0] > 0


def test_a_slice_that_was_not_stored_is_named(path: Path) -> None:
    panel = panel_from({"kind": "regions", "slice": 4})
    with pytest.raises(NothingToDraw, match="no regions of slice 4"):
        panels.draw(panel, context(path))


@pytest.fixture(scope="module")
def tab(browser: Browser, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    page = write_report([path], tmp_path_factory.mktemp("page") / "report.html")
    return browser.open(page, 1440, 900)


def pixel(tab: Tab, selector: str, across: float, down: float, number: int = 0) -> list[int]:
    found = tab.evaluate(
        f"""(() => {{
          const c = document.querySelectorAll("{selector}")[{number}];
          const x = Math.floor({across} * c.width), y = Math.floor({down} * c.height);
          return [...c.getContext("2d").getImageData(x, y, 1, 1).data];
        }})()"""
    )
    return [int(value) for value in found]


def move(tab: Tab, place: int) -> None:
    tab.evaluate(
        f"""(() => {{
          const s = document.querySelector(".regions input");
          s.value = {place}; s.dispatchEvent(new Event("input"));
        }})()"""
    )


@pytest.mark.browser
def test_the_slider_moves_through_the_frames_of_both_arms(tab: Tab) -> None:
    drawn = "document.querySelectorAll('.plane')[{}].toDataURL()"
    move(tab, 3)
    last = [tab.evaluate(drawn.format(arm)) for arm in (0, 1)]
    move(tab, 2)
    before = [tab.evaluate(drawn.format(arm)) for arm in (0, 1)]
    assert tab.evaluate("document.querySelector('.regions output').textContent") == "100"
    assert last[0] != before[0]
    assert last[1] == before[1]
    assert tab.complaints() == []


def bare(data: dict[str, Any], frame: dict[str, Any]) -> list[tuple[int, int]]:
    """Pixels of a frame's image, row and column, away from every line, point and other color."""
    parts, film = decoded(frame), data["films"][0]
    side = math.isqrt(len(parts["image"]))
    levels = parts["image"].reshape(side, side)
    drawn = np.zeros((side, side), dtype=bool)
    lines = np.stack([parts["lines_x"], parts["lines_y"]], axis=1)
    inner = np.ones(len(lines), dtype=bool)
    inner[np.cumsum(parts["lines_lengths"]) - 1] = False  # from a line's last corner no segment
    ends = [*zip(lines[inner], lines[np.flatnonzero(inner) + 1], strict=True)]
    for one, two in [*ends, *parts["boundary"].reshape(-1, 2, 2)]:
        across = np.linspace(one, two, 2 * side) / GRID * (side - 1)
        drawn[(side - 1 - across[:, 1]).round().astype(int), across[:, 0].round().astype(int)] = (
            True
        )
    rows, columns = np.indices((side, side))
    for x, y in film["points"]:  # a circle, and a label on one of its sides
        away = np.hypot(columns / side - x, 1 - rows / side - y)
        drawn |= away < film["radius"] + 8 / side
        drawn |= (abs(1 - rows / side - y) < 0.06) & (abs(columns / side - x) < 0.2)
    found = []
    for row, column in zip(*(~drawn).nonzero(), strict=True):
        if min(row, column) >= 4 and max(row, column) < side - 4:
            near = np.s_[row - 3 : row + 4, column - 3 : column + 4]
            if not drawn[near].any() and np.ptp(levels[near]) == 0:
                found.append((int(row), int(column)))
    return found


@pytest.mark.browser
def test_each_pixel_has_the_color_of_its_norm_on_one_scale_and_on_its_own(
    tab: Tab, path: Path
) -> None:
    data = draw(path).data
    assert data is not None
    ramp = [[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in data["colors"]]

    def choose(number: int) -> None:
        tab.evaluate(f"document.querySelectorAll('[data-scale]')[{number}].click()")

    for number in (0, 1):
        choose(number)
        for step in (0, 3):
            move(tab, step)
            frame = data["films"][0]["frames"][step]
            places = bare(data, frame)
            assert len(places) > 20
            image = decoded(frame)["image"]
            side = math.isqrt(len(image))
            low, high = np.log(frame["norms"] if number else data["norms"])
            first, last = np.log(frame["norms"])
            for row, column in places[:: len(places) // 15]:
                norm = first + (last - first) * image[row * side + column] / LEVELS
                share = (norm - low) / (high - low) * (len(ramp) - 1)
                expected = [
                    np.interp(share, range(len(ramp)), of) for of in zip(*ramp, strict=True)
                ]
                found = pixel(tab, ".plane", (column + 0.5) / side, (row + 0.5) / side)[:3]
                assert found == pytest.approx(expected, abs=1.5)
    pressed = "[...document.querySelectorAll('[data-scale]')].map((b) => b.ariaPressed)"
    assert tab.evaluate(pressed) == ["false", "true"]
    choose(0)


@pytest.mark.browser
def test_images_centroids_and_rows_stand_under_each_slice(tab: Tab) -> None:
    kinds = tab.evaluate("[...document.querySelectorAll('[data-near]')].map((c) => c.dataset.near)")
    assert kinds == 2 * [kind for kind in ("lens", "images", "centroids", "rows") for _ in range(3)]
    labels = tab.evaluate(
        "[...document.querySelectorAll('.regions canvas')].every((c) => c.ariaLabel)"
    )
    assert labels
    # A lens is round: its corner shows the page, its middle the point.
    assert pixel(tab, "[data-near=lens]", 0.01, 0.01)[3] == 0
    assert pixel(tab, "[data-near=lens]", 0.5, 0.5)[3] == 255


@pytest.mark.browser
def test_a_phone_shows_the_arms_one_under_the_other(
    browser: Browser, path: Path, tmp_path: Path
) -> None:
    tab = browser.open(write_report([path], tmp_path / "report.html"), 390, 844)
    assert tab.complaints() == []
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tops = tab.evaluate(
        "[...document.querySelectorAll('.plane')].map((c) => c.getBoundingClientRect().top)"
    )
    assert tops[1] > tops[0] + 300
    sharp = (
        "(() => { const c = document.querySelector('.plane'); return c.width / c.clientWidth })()"
    )
    assert tab.evaluate(sharp) == pytest.approx(tab.evaluate("devicePixelRatio"), rel=0.01)
