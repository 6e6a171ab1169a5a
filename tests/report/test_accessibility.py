"""axe-core finds nothing to say against the page, at any width, in either theme, of any panel."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from grokscope.report import write_report
from tests.report import made_up_regions
from tests.report.browser import Browser, Tab

pytestmark = pytest.mark.browser

VENDOR = Path(__file__).parent / "vendor"
AXE = VENDOR / "axe.min.js"
SUMMARY = """
axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(
  found.violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.html}`))))
"""


def violations(tab: Tab) -> list[str]:
    """What axe-core finds, each with the element."""
    tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    tab.evaluate(f"{AXE.read_text()}; 0")
    return list(json.loads(tab.evaluate(SUMMARY)))


def page_of(names: str, runs: Path, folder: Path) -> Path:
    if names == "panels":
        kernel = {"steps": [0, 10, 1000], "matrix": [[0, 1, 2], [1, 0, 1], [2, 1, 0]]}
        points = [{"arm": "baseline", "x": 1, "y": 2}, {"arm": "grokalign", "x": 2, "y": 3}]
        panels = [
            made_up_regions.PANEL,
            {**made_up_regions.PANEL, "title": "The same slice again"},
            {"kind": "heatmap", "results": "kernel"},
            {"kind": "table", "results": "numbers"},
            {"kind": "time_to_target", "target": 0.9},
            {"kind": "scatter", "results": "points", "x": "x", "y": "y", "series": "arm"},
        ]
        path = made_up_regions.run(folder / "run", panels=panels)
        results = {"kernel": kernel, "points": points, "numbers": {"a": 1, "b": 2}}
        (path / "results.json").write_text(json.dumps(results))
        return write_report([path])
    return write_report([runs / name for name in names.split("+")], folder / "page.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("names", ["finished", "finished+three-seeds+never", "started", "panels"])
def test_axe_finds_nothing(
    browser: Browser, runs: Path, tmp_path: Path, names: str, width: int, scheme: str
) -> None:
    tab = browser.open(page_of(names, runs, tmp_path), width, 900, scheme=scheme)
    assert violations(tab) == []
    assert tab.complaints() == []


def test_axe_would_find_something(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<html data-ready=yes><title>Bad</title><img src='data:,'><button></button>")
    found = violations(browser.open(bad, 390, 844))
    assert any(line.startswith("image-alt") for line in found)
    assert any(line.startswith("button-name") for line in found)


def test_axe_is_the_published_one() -> None:
    digest = re.search(r"`axe.min.js`.*`(\w{64})`", (VENDOR / "README.md").read_text())
    assert digest is not None
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == digest[1]
