"""Recorded runs that are kept, and the report pages that the site makes of them."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from tests.report import made_up_runs

from grokscope.experiments.catalogue import entries
from grokscope.report import write_report
from grokscope.runs import Run

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "docs/results/runs"
NAMES = sorted(path.parent.name for path in RUNS.glob("*/spec.yaml"))


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


@pytest.fixture
def keeping() -> ModuleType:
    return importlib.import_module("keep_run")


@pytest.fixture
def pages() -> ModuleType:
    return importlib.import_module("report_pages")


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_run_has_the_recorded_verdicts(name: str, pages: ModuleType) -> None:
    recorded = json.loads((ROOT / "docs/results/claims.json").read_text("utf-8"))
    run = pages.open_kept(name)
    entry = recorded[f"{run.spec['name']} ({run.spec['preset']})"]
    assert name == f"{entry['experiment']}-{entry['preset']}"
    records = importlib.import_module("records")
    assert records.judged(run) == entry["claims"]


def test_every_figure_links_to_the_report_page_of_a_recorded_run() -> None:
    figures = importlib.import_module("figure_pages")
    written = figures.figure_pages()
    linked = {
        figure: re.findall(r"\.\./reports/([\w-]+)\.html", written[figure.replace("/", "-")])
        for entry in entries()
        for figure in entry.reproduces
    }
    assert [figure for figure, found in linked.items() if not found] == []
    assert {name for found in linked.values() for name in found} <= set(NAMES)
    for figure, found in linked.items():
        assert all(figure in figures.figures_shown_by(name) for name in found)


def test_kept_runs_name_no_folder_of_the_machine_and_are_small() -> None:
    files = [path for path in RUNS.rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix in (".json", ".jsonl", ".yaml")]
    local = re.compile(r"/(?:home|root|tmp|work|Users)/|\"pid\"")
    assert [path for path in texts if local.search(path.read_text("utf-8"))] == []
    assert sum(path.stat().st_size for path in files) < 15e6


def test_a_page_of_the_site_says_what_the_experiment_says_today(
    pages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name = "xor-robustness-quick"
    text = pages.report_page(name, [("Figure 4", "../figures/grokalign-fig4.html")])
    assert '<a href="../figures/grokalign-fig4.html">Figure 4</a>' in text
    assert f'<script src="{pages.PLOTLY}">' in text
    assert len(text) < 400_000
    title = next(entry.title for entry in entries() if entry.name == "xor-robustness")
    assert title in text
    assert str(ROOT) not in text
    assert "could not be drawn" not in text


def test_what_is_kept_of_a_run_is_small_and_says_the_same(
    keeping: ModuleType, tmp_path: Path
) -> None:
    path = made_up_runs.grokking(tmp_path / "run", seeds=(0, 1))
    env = json.loads((path / "env.json").read_text())
    env["command"] = ["/opt/grokscope", "run", "x", "--out", "/tmp/x", "--preset", "paper"]
    (path / "env.json").write_text(json.dumps(env))
    run = Run(path)
    keeping.keep(run, tmp_path / "kept")
    kept = Run(tmp_path / "kept")
    assert kept.trials == run.trials
    for trial, history in run.histories.items():
        assert kept.history(*trial).rows == keeping.rounded(list(history.rows))
    frames = [name for name in kept.array_names("baseline", 0) if name.startswith("step-")]
    stored = [name for name in run.array_names("baseline", 0) if name.startswith("step-")]
    assert len(frames) == keeping.PICTURES < len(stored)
    assert (frames[0], frames[-1]) == (stored[0], stored[-1])
    assert kept.array_names("baseline", 1) == []
    assert kept.env["command"] == ["grokscope", "run", "x", "--preset", "paper"]
    assert "pid" not in kept.status
    pages = [
        write_report([folder], tmp_path / "page.html").read_text() for folder in (path, kept.path)
    ]
    verdicts = [re.findall(r'class="verdict">.*?</p>', page, flags=re.S) for page in pages]
    assert verdicts[0] == verdicts[1] != []


def test_a_kept_copy_offers_no_resuming(keeping: ModuleType, tmp_path: Path) -> None:
    killed = made_up_runs.killed(tmp_path / "run")
    keeping.keep(Run(killed), tmp_path / "kept")
    texts = [write_report([path]).read_text() for path in (killed, tmp_path / "kept")]
    assert ["--resume goes on with it" in text for text in texts] == [True, False]
    assert all("was killed before it finished" in text for text in texts)
