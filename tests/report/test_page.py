from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from grokscope.report import write_report
from grokscope.runs import RunError
from tests.report import made_up_runs


class Page(HTMLParser):
    """The text, the scripts and the attributes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split()).replace("\xa0", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside == ["script"]:
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))


def page(path: Path, out: Path, **_: Any) -> Page:
    return Page(write_report([path], out / "page.html"))


def test_the_page_says_what_was_run_found_and_claimed(runs: Path, tmp_path: Path) -> None:
    text = page(runs / "finished", tmp_path).text
    for part in (
        "GrokAlign generalized in 10× fewer steps: 1,212 instead of 12,115.",
        "In training time, GrokAlign took 3.4 s instead of 33.9 s",
        "The same network is trained twice on 300 handwritten digits",
        "383 steps",
        "✓ held GrokAlign generalizes at least 5 times sooner than weight decay alone "
        "Measured: 10×. Claimed: at least 5×. Source: GrokAlign, Section 4.",
        "✗ not held Weight decay alone ends above 95 % test accuracy Measured: 92.7 %.",
        "? open Regions grow around the training points",
        "GrokAlign : grokalign (weight 0.001, mode minimize).",
        "Weight decay alone : no method added.",
        "weight_decay: 0.01",
        "torch",
    ):
        assert part in text


def test_the_page_draws_every_quantity(runs: Path, tmp_path: Path) -> None:
    found = page(runs / "finished", tmp_path)
    titles = [attributes["id"] for tag, attributes in found.elements if tag == "h3"]
    assert len(titles) == 8
    for title in (
        "Accuracy",
        "Loss",
        "Centroid alignment",
        "Centroid norm",
        "Jacobian norm",
        "First principal component",
        "Weight norm",
        "Centroids of probe points",
    ):
        assert title in found.text
    assert len(found.data()) == 8
    assert sum(tag == "canvas" for tag, _ in found.elements) == 8 * 3


def test_the_page_is_complete_in_itself_and_under_10_megabytes(runs: Path, tmp_path: Path) -> None:
    path = write_report([runs / "finished"], tmp_path / "page.html")
    assert path.stat().st_size < 10_000_000
    found = Page(path)
    for tag, attributes in found.elements:
        assert "src" not in attributes, tag
        assert tag not in ("link", "iframe", "object", "img", "base")
        assert (attributes.get("href") or "#").startswith("#")
    text = path.read_text()
    assert text.count("plotly.js (cartesian - minified) v") == 1
    assert path.stat().st_size < 2_000_000
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_vendored_scripts_are_the_published_ones() -> None:
    folder = files("grokscope.report") / "vendor"
    listed = re.findall(r"`([\w.-]+\.js)`.*`(\w{64})`", (folder / "README.md").read_text())
    assert [name for name, _ in listed] == ["plotly-cartesian.min.js"]
    for name, digest in listed:
        script = (folder / name).read_bytes()
        assert hashlib.sha256(script).hexdigest() == digest
        # A script element ends at a closing tag, and browsers turn returns into newlines.
        assert b"</script" not in script
        assert b"\r" not in script


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(
    runs: Path, tmp_path: Path
) -> None:
    found = page(runs / "finished", tmp_path)
    policy = next(
        attributes["content"] for tag, attributes in found.elements if "http-equiv" in attributes
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = found.scripts[1:]
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert hashes == allowed
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_everything_that_a_user_wrote_is_escaped(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    arms = made_up_runs.spec()["arms"]
    arms["baseline"]["title"] = attack
    arms["baseline"]["methods"] = [{"name": attack, "weight": attack}]
    arms["grokalign"]["data"] = {"name": attack}
    path = made_up_runs.grokking(
        tmp_path / "run",
        arms=arms,
        title=attack,
        name=attack,
        description=attack,
        source=attack,
        claims=[{**made_up_runs.spec()["claims"][0], "says": attack, "source": attack}],
        panels=[{"kind": attack}, {"kind": "curves", "title": attack, "columns": ["test_loss"]}],
    )
    found = page(path, tmp_path)
    assert sum(tag == "script" for tag, _ in found.elements) == 3
    assert not any(tag == "img" for tag, _ in found.elements)
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    names = [trace["name"] for trace in found.data()["d0"]["data"]]
    assert all("<" not in name for name in names)
    assert attack in found.text


def test_an_unfinished_run_says_so(runs: Path, tmp_path: Path) -> None:
    killed = page(runs / "killed", tmp_path).text
    assert "This run was killed before it finished" in killed
    assert "Weight decay alone has not generalized yet, at step 500." in killed
    assert "not held so far" in killed
    started = page(runs / "started", tmp_path)
    assert "nothing has been measured yet" in started.text
    assert "Nothing to plot yet" in started.text
    assert started.data() == {}
    assert len(started.scripts) == 2  # its data and ours: without a plot, no plotly.js


def test_why_a_run_failed_is_told(tmp_path: Path) -> None:
    path = made_up_runs.started(tmp_path / "run")
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "state": "failed", "error": "no disk"}))
    assert "This run failed before it finished: no disk" in page(path, tmp_path).text


def test_panels_of_the_spec_are_added_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    path = made_up_runs.grokking(
        tmp_path / "run",
        shape=None,
        panels=[
            {"kind": "curves", "title": "Ours", "columns": ["weight_norm"]},
            {"kind": "heatmap", "title": "Kernel", "results": "kernel"},
            {"kind": "curve", "title": "Misspelt"},
            "nonsense",
        ],
    )
    text = page(path, tmp_path).text
    assert "Ours" in text
    assert "Kernel could not be drawn: results.json has no 'kernel'" in text
    assert "Misspelt could not be drawn: kind: there is no 'curve'" in text
    assert "Panel 4 could not be drawn: a panel is a mapping" in text


def test_a_damaged_side_file_is_told_on_the_page(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    (path / "env.json").write_text("{torn")
    assert "env.json is not valid JSON" in page(path, tmp_path).text


def test_a_damaged_picture_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run")
    (path / "arrays/baseline/seed-0/step-00000010.safetensors").write_bytes(b"torn")
    text = page(path, tmp_path).text
    assert "Centroids of probe points could not be drawn" in text
    assert "Centroid alignment" in text


def test_several_runs_are_compared_before_each_is_shown(runs: Path, tmp_path: Path) -> None:
    names = ["finished", "never", "killed", "started"]
    found = Page(write_report([runs / name for name in names], tmp_path / "all.html"))
    assert "4 runs side by side" in found.text
    ids = [attributes.get("id") for tag, attributes in found.elements if tag == "article"]
    assert ids == ["run-1", "run-2", "run-3", "run-4"]
    assert "Test accuracy of all runs" in found.text
    overlay = found.data()["d0"]
    assert len(overlay["data"]) == 5
    assert {trace["line"]["dash"] for trace in overlay["data"]} == {"solid", "dot", "dash"}
    for tag, attributes in found.elements:
        if tag == "a":
            assert str(attributes["href"]).removeprefix("#") in ids


def test_an_arm_has_one_color_on_the_whole_page(runs: Path, tmp_path: Path) -> None:
    found = Page(write_report([runs / "finished", runs / "never"], tmp_path / "all.html"))
    colors: dict[str, set[str]] = {}
    for figure in found.data().values():
        for trace in figure.get("data", []):
            if "line" in trace:
                colors.setdefault(trace["meta"], set()).add(trace["line"]["color"])
    assert colors == {"baseline": {"@arm0"}, "grokalign": {"@arm1"}}


def test_where_the_page_goes(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = made_up_runs.started(tmp_path / "run")
    assert write_report([own]) == own / "report.html"
    assert write_report([own, runs / "started"]) == Path("report.html")
    assert write_report([own], tmp_path) == tmp_path / "report.html"
    assert write_report([own], tmp_path / "new" / "page.html").exists()


def test_many_pages_can_share_one_plotly(runs: Path, tmp_path: Path) -> None:
    found = Page(write_report([runs / "finished"], tmp_path / "page.html", plotly="plotly.js"))
    sources = [attributes.get("src") for tag, attributes in found.elements if tag == "script"]
    assert sources == [None, "plotly.js", None]
    assert (tmp_path / "page.html").stat().st_size < 300_000
    policy = next(
        str(attributes["content"])
        for _, attributes in found.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "script-src 'self' 'sha256-" in policy
    assert "This page is one file" not in found.text
    started = Page(write_report([runs / "started"], tmp_path / "none.html", plotly="plotly.js"))
    assert not any("src" in attributes for tag, attributes in started.elements if tag == "script")


def test_many_panels_that_cannot_be_drawn_fold_into_one_notice(tmp_path: Path) -> None:
    panels = [{"kind": "curves", "title": f"P{i}", "columns": ["a", "b", "c"]} for i in range(3)]
    path = made_up_runs.grokking(tmp_path / "run", shape=None, panels=panels)
    found = page(path, tmp_path)
    assert "3 plots or tables could not be drawn" in found.text
    assert (
        "P1 could not be drawn: this run has recorded no a and none of 2 more columns" in found.text
    )
    notices = [a for tag, a in found.elements if "notice" in str(a.get("class")).split()]
    assert len(notices) == 2  # this one, and that plots need JavaScript


def test_the_page_is_the_same_every_time(runs: Path, tmp_path: Path) -> None:
    pages = [write_report([runs / "finished"], tmp_path / name) for name in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: [], "no run was named"),
        (lambda root: [root / "missing"], "no folder"),
        (lambda root: [root], "holds no run"),
    ],
)
def test_no_run_is_one_clear_error(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        write_report(make(tmp_path), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"could not write .*page.html"):
        write_report([runs / "started"], tmp_path / "file" / "page.html")
    assert os.listdir(tmp_path) == ["file"]
