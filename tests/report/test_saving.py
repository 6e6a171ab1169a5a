"""What can be taken off the page: plots as CSV, and the whole of it on paper."""

from __future__ import annotations

import base64
import csv
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from grokscope.report import write_figures, write_report
from grokscope.report.figure_files import csv_text
from grokscope.runs import Run, RunDirectory
from tests.report import made_up_runs
from tests.report.browser import Browser, Tab
from tests.report.drawing import draw

# Catches what a button saves before the browser asks where to put it.
CATCH = """
(() => {
  window.saved = [];
  const create = URL.createObjectURL;
  URL.createObjectURL = (blob) => { window.saved.push(blob); return create(blob); };
  HTMLAnchorElement.prototype.click = function () { window.savedName = this.download; };
})()
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A run with a heat map and a title that CSV has to quote."""
    arms = made_up_runs.spec()["arms"]
    arms["baseline"]["title"] = 'Alone, "as is" & <so>'
    panels = [
        {"kind": "heatmap", "title": "Kernels", "results": "kernel"},
        {"kind": "scatter", "results": "points", "x": "x", "y": "y", "series": "arm"},
    ]
    path = made_up_runs.grokking(tmp_path / "run", shape=None, arms=arms, panels=panels)
    matrix = np.abs(np.subtract.outer(np.arange(3), np.arange(3))) / 4
    with RunDirectory.resume(path, "cpu") as writer:
        kernel = {"steps": [0, 10, 1000], "matrix": matrix.tolist()}
        points = [{"arm": "baseline", "x": 1.5, "y": 2}, {"arm": "grokalign", "x": 2, "y": 3}]
        writer.write_results({"kernel": kernel, "points": points})
    return path


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(StringIO(text)))


def test_a_csv_has_the_rows_of_the_run(runs: Path) -> None:
    (drawing,) = draw(runs / "finished", kind="curves", title="A", columns=["test_accuracy"])
    head, *points = rows(csv_text(drawing))
    assert head == ["series", "step", "value"]
    history = Run(runs / "finished").history("grokalign", 0)
    own = [row for row in points if row[0] == "GrokAlign, test accuracy"]
    assert [int(step) for _, step, _ in own] == history.steps.tolist()
    values = [float(value) for *_, value in own]
    assert values == pytest.approx(history["test_accuracy"].tolist(), rel=1e-5)


def test_a_band_has_its_ends(runs: Path) -> None:
    panel = {"columns": ["centroid_alignment"], "band": "range", "arms": ["grokalign"]}
    (drawing,) = draw(runs / "finished", kind="curves", title="C", **panel)
    names = {row[0] for row in rows(csv_text(drawing))[1:]}
    line = "GrokAlign, centroid alignment"
    assert names == {line, f"{line}, upper end", f"{line}, lower end"}


def test_csv_files_need_no_matplotlib(kernels: Path, tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write_figures(kernels, tmp_path, "csv")}
    assert rows(written["kernels.csv"])[:3] == [
        ["step", "other step", "distance"],
        ["0", "0", "0.0"],
        ["10", "0", "0.25"],
    ]
    assert 'Alone, "as is" & <so>, test examples' in {r[0] for r in rows(written["accuracy.csv"])}


@pytest.mark.browser
def test_every_plot_saves_the_csv_that_python_writes(
    browser: Browser, kernels: Path, tmp_path: Path
) -> None:
    written = {
        path.name: rows(path.read_text()) for path in write_figures(kernels, tmp_path, "csv")
    }
    tab = browser.open(write_report([kernels]), 1280, 900)
    tab.evaluate(CATCH)
    buttons = int(tab.evaluate("document.querySelectorAll('[data-csv]').length"))
    assert buttons == len(written) > 8
    for place in range(buttons):
        tab.evaluate(f"document.querySelectorAll('[data-csv]')[{place}].click()")
        saved = rows(tab.evaluate("window.saved.at(-1).text()"))
        expected = written[tab.evaluate("window.savedName")]
        assert saved[0] == expected[0]
        assert len(saved) == len(expected)
        for ours, theirs in zip(saved[1:], expected[1:], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert one == other or float(one) == float(other)


def look(tab: Tab) -> list[object]:
    line = "getComputedStyle(document.querySelector('#d0 .js-line')).stroke"
    width = "document.querySelector('#d0 .main-svg').getBoundingClientRect().width"
    open_ones = "document.querySelectorAll('details[open]').length"
    return [tab.evaluate(line), tab.evaluate(width), tab.evaluate(open_ones)]


@pytest.mark.browser
def test_paper_is_light_whatever_the_screen_and_has_all_that_is_folded(
    browser: Browser, runs: Path, tmp_path: Path
) -> None:
    page = write_report([runs / "finished"], tmp_path / "page.html")
    tab = browser.open(page, 1280, 900, scheme="dark")
    before = look(tab)
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    color, width, unfolded = look(tab)
    assert (color, unfolded) == ("rgb(40, 74, 178)", 3)
    assert float(str(width)) < 688
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.wait(
        f"document.querySelector('#d0 .main-svg').getBoundingClientRect().width == {before[1]}"
    )
    assert look(tab) == before
    paper = base64.b64decode(tab.call("Page.printToPDF", printBackground=False)["data"])
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 12
    assert tab.complaints() == []


@pytest.mark.browser
def test_no_table_is_cut_on_paper(browser: Browser, runs: Path, tmp_path: Path) -> None:
    page = write_report([runs / "three-seeds"], tmp_path / "page.html")
    tab = browser.open(page, 1280, 900)
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    edges = tab.evaluate(
        "[...document.querySelectorAll('main, table.values td span')]"
        ".map((cell) => cell.getBoundingClientRect().right)"
    )
    assert len(edges) > 20
    assert max(edges[1:]) <= edges[0]
    shown = "getComputedStyle(document.querySelector('.specification')).display"
    assert tab.evaluate(shown) == "none"
