"""The page as a browser shows it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from grokscope.report import write_report
from tests.report import made_up_runs
from tests.report.browser import Browser, Tab

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1440, 900), (390, 844)


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([runs / "finished"], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def desktop(browser: Browser, page: Path) -> Tab:
    """The page in a wide window; tests that share it set what they look at."""
    return browser.open(page, *DESKTOP)


@pytest.fixture(scope="module")
def phone(browser: Browser, page: Path) -> Tab:
    """The page on a phone."""
    return browser.open(page, *PHONE)


def overflowing(tab: Tab) -> list[str]:
    """What sticks out of the window, save what scrolls inside its own frame."""
    found = tab.evaluate(
        """[...document.querySelectorAll("main *")]
        .filter((e) => !e.closest(".scroll, pre, .unseen, svg, thead, .plot"))
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    return list(found)


def scheme(tab: Tab, name: str) -> None:
    """Change the system's theme and wait until the page has followed."""
    tab.call("Page.bringToFront")  # nothing is drawn in a tab that is behind another
    features = [{"name": "prefers-color-scheme", "value": name}]
    tab.call("Emulation.setEmulatedMedia", features=features)
    color = {"dark": "rgb(181, 176, 255)", "light": "rgb(40, 74, 178)"}[name]
    stroke = "getComputedStyle(document.querySelector('#d0 .js-line')).stroke"
    tab.wait(f"{stroke} === '{color}'")


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_the_page_draws_without_complaint_or_network(
    request: pytest.FixtureRequest, page: Path, name: str
) -> None:
    tab: Tab = request.getfixturevalue(name)
    for theme in ("dark", "light"):
        scheme(tab, theme)
        plots = tab.evaluate(
            "[...document.querySelectorAll('.plot')]"
            ".map((p) => [...p.querySelectorAll('.scatterlayer .trace')].length)"
        )
        # Accuracy and loss: two arms, two columns; four with a mean and a range; one weight norm.
        assert plots == [4, 4, 4, 4, 4, 4, 2]
        lines = "[...document.querySelectorAll('.js-line')].map((l) => l.getTotalLength())"
        assert min(tab.evaluate(lines)) > 50
        assert tab.complaints() == []
    assert tab.requests() == [page.resolve().as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth === innerWidth")
    assert overflowing(tab) == []


def test_a_browser_that_wanted_the_network_would_be_caught(
    browser: Browser, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<html data-ready=yes><img src='http://127.0.0.1:9/x.png'><script>throw 1</script></html>"
    )
    tab = browser.open(bad, *DESKTOP)
    assert "http://127.0.0.1:9/x.png" in tab.requests()
    assert tab.complaints()


def test_a_point_under_the_mouse_tells_its_arm_step_and_value(desktop: Tab) -> None:
    desktop.call("Page.bringToFront")
    desktop.evaluate("document.querySelector('#d0').scrollIntoView({block: 'center'})")
    place = desktop.evaluate(
        """(() => {
          const line = document.querySelector("#d0 .js-line");
          const at = line.getPointAtLength(0), to = line.getScreenCTM();
          return [at.x + to.e, at.y + to.f];
        })()"""
    )
    desktop.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] + 1, y=place[1])
    text = "document.querySelector('#d0 .hoverlayer').textContent"
    desktop.wait(f"{text} !== ''")
    assert desktop.evaluate(text).endswith("examplesstep 0: 10.0%")


def test_plots_fit_the_window_when_it_changes(browser: Browser, page: Path) -> None:
    tab = browser.open(page, *DESKTOP)
    width = "document.querySelector('.plot .main-svg').getBoundingClientRect().width"
    wide = tab.evaluate(width)
    tab.resize(*PHONE)
    tab.wait(f"{width} < 390")
    assert wide > 900
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_legends_stand_clear_of_the_plots(desktop: Tab, phone: Tab) -> None:
    for tab in (desktop, phone):
        gaps = tab.evaluate(
            "[...document.querySelectorAll('.legend')].map((l) => l.nextElementSibling"
            ".getBoundingClientRect().top - l.getBoundingClientRect().bottom)"
        )
        assert min(gaps) >= 0


def test_a_legend_hides_and_shows_an_arm_with_its_delay(desktop: Tab) -> None:
    tab = desktop
    traces = "document.querySelectorAll('#d0 .scatterlayer .trace').length"
    shades = "document.querySelectorAll('#d0 .shapelayer path').length"
    before = [tab.evaluate(traces), tab.evaluate(shades)]
    tab.evaluate("document.querySelector('[data-plot=d0][data-target=baseline]').click()")
    tab.wait(f"{traces} === {before[0] // 2}")
    assert tab.evaluate(shades) == before[1] / 2
    pressed = "document.querySelector('[data-plot=d0]').getAttribute('aria-pressed')"
    assert tab.evaluate(pressed) == "false"
    tab.evaluate("document.querySelector('[data-plot=d0]').click()")
    tab.wait(f"{traces} === {before[0]}")
    assert tab.evaluate(shades) == before[1]


def canvas(tab: Tab, row: str, place: int = 0) -> list[int]:
    """The pixels of one picture, red, green, blue and opacity."""
    found = tab.evaluate(
        f"""(() => {{
          const c = document.querySelectorAll("[data-row='{row}'] canvas")[{place}];
          return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data];
        }})()"""
    )
    return [int(value) for value in found]


def move(tab: Tab, place: int | str) -> None:
    tab.evaluate(
        f"""(() => {{
          const s = document.querySelector(".slider input");
          s.value = {place}; s.dispatchEvent(new Event("input"));
        }})()"""
    )


def test_the_slider_shows_the_centroids_of_its_step(desktop: Tab) -> None:
    tab = desktop
    text = "document.querySelector('.slider output').textContent"
    move(tab, "1e9")
    assert tab.evaluate(text) == "20,000"
    given, last = canvas(tab, "given"), canvas(tab, "0")
    move(tab, 0)
    assert tab.evaluate(text) == "0"
    first = canvas(tab, "0")
    assert canvas(tab, "given") == given
    assert first != last

    def distance(picture: list[int]) -> float:
        return sum(abs(a - b) for a, b in zip(picture, given, strict=True)) / len(given)

    # The made-up centroids turn from noise into the image.
    assert distance(last) < 0.2 * distance(first)
    metrics = "document.querySelector(\"[data-row='1'] .metrics-at\").textContent"
    assert tab.evaluate(metrics).startswith("train accuracy 10.")
    steps: Any = "JSON.parse(document.getElementById('data').textContent).d7.steps"
    move(tab, f"{steps}.indexOf(6813)")
    assert tab.evaluate(text) == "6,813"
    assert tab.evaluate(metrics).startswith("stopped at step 3,000; train accuracy 100.0 %")


def test_one_color_pictures_have_ink_for_positive_and_red_for_negative(desktop: Tab) -> None:
    tab = desktop
    # Point 0 has a full bar in its first column; paper elsewhere.
    given = canvas(tab, "given")
    assert given[4 * 8 : 4 * 8 + 4] == [0x1F, 0x23, 0x28, 255]
    assert given[-4:] == [255, 255, 255, 255]
    move(tab, 0)
    noise = canvas(tab, "0")
    # The value furthest from 0 is drawn in full: in half of all noise it is negative.
    pictures = [canvas(tab, row, place) for row in "01" for place in range(8)]
    full = {tuple(picture[i : i + 3]) for picture in pictures for i in range(0, len(noise), 4)}
    assert {(0x1F, 0x23, 0x28), (0xC2, 0x18, 0x5B)} <= full


def test_color_pictures_keep_their_colors(browser: Browser, tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=(3, 6, 6))
    tab = browser.open(write_report([path]), *DESKTOP)
    given = canvas(tab, "given")
    assert given[4 * 6 : 4 * 6 + 4] == [254, 254, 254, 255]
    assert given[-4:] == [0, 0, 0, 255]


def test_play_runs_to_the_end_and_stops(desktop: Tab) -> None:
    tab = desktop
    last = int(tab.evaluate("document.querySelector('.slider input').max"))
    move(tab, last - 2)
    button = "document.querySelector('.play')"
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(f"{button}.textContent") == "Pause"
    tab.wait(f"{button}.textContent === 'Play'")
    assert tab.evaluate("document.querySelector('.slider input').value") == str(last)


def test_pictures_follow_the_theme_of_the_system(desktop: Tab) -> None:
    scheme(desktop, "dark")
    assert canvas(desktop, "given")[-4:] == [0x1D, 0x20, 0x24, 255]
    scheme(desktop, "light")
    assert canvas(desktop, "given")[-4:] == [255, 255, 255, 255]


def test_plots_say_in_words_what_they_show(desktop: Tab) -> None:
    tab = desktop
    labels = tab.evaluate(
        "[...document.querySelectorAll('.plot, canvas')].map((e) => e.getAttribute('aria-label'))"
    )
    assert all(labels)
    assert labels[0].startswith("Accuracy. Weight decay alone: test examples from 10.")
    headings = tab.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => h.tagName)"
    )
    assert headings.count("H1") == 1
    depths = [int(name[1]) for name in headings]
    assert all(deeper - depth <= 1 for depth, deeper in pairwise(depths))


@pytest.mark.parametrize("names", [["killed"], ["started"], ["finished", "three-seeds", "never"]])
def test_other_pages_draw_without_complaint_at_phone_width(
    browser: Browser, runs: Path, tmp_path: Path, names: list[str]
) -> None:
    path = write_report([runs / name for name in names], tmp_path / "report.html")
    tab = browser.open(path, *PHONE)
    assert tab.complaints() == []
    assert tab.requests() == [path.resolve().as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert overflowing(tab) == []


def test_long_names_do_not_widen_a_phone(browser: Browser, tmp_path: Path) -> None:
    arms = made_up_runs.spec()["arms"]
    for entry in arms.values():
        entry["title"] = "x" * 120
        entry["model"]["path"] = "y" * 120
    path = made_up_runs.grokking(
        tmp_path / "run", shape=None, arms=arms, title="z" * 120, description="w" * 300
    )
    tab = browser.open(write_report([path]), *PHONE)
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert overflowing(tab) == []


def test_every_kind_of_panel_is_drawn(browser: Browser, tmp_path: Path) -> None:
    matrix = [[0.0, 0.2, 0.4], [0.2, 0.0, 0.3], [0.4, 0.3, 0.0]]
    path = made_up_runs.grokking(
        tmp_path / "run",
        shape=None,
        panels=[
            {"kind": "heatmap", "title": "Kernel distance", "results": "kernel"},
            {"kind": "table", "title": "Theorems", "results": "theorems"},
            {
                "kind": "curves",
                "title": "Layers",
                "columns": ["jacobian_norm", "centroid_norm"],
                "color_by": "column",
                "spans": [{"start": 10, "end": 100, "label": "late compression"}],
            },
        ],
    )
    kernel = {"steps": [0, 10, 1000], "matrix": matrix}
    results = {"kernel": kernel, "theorems": [{"a": 1}]}
    (path / "results.json").write_text(json.dumps(results))
    tab = browser.open(write_report([path]), *PHONE)
    assert tab.complaints() == []
    assert tab.evaluate("document.querySelectorAll('.heatmaplayer image').length") == 1
    assert tab.evaluate("document.querySelectorAll('table.values').length") == 2
    assert "late compression" in tab.evaluate("document.body.textContent")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
