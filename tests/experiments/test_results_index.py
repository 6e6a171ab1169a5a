"""The page of all figures and tables is what its script would write from what is recorded."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.catalogue import entries, shipped
from grokscope.runs import Run
from tests.report.made_up_runs import grokking

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"

SPEC = """
name: small
title: A small experiment
data: {name: digits, train_size: 30, test_size: 20}
model: {widths: [4]}
training: {max_steps: 7, evaluate: {per_decade: 2}}
monitor: {measures: []}
arms: {baseline: {}}
claims:
  - says: It fits nothing
    source: A paper
    quantity: {kind: value, arm: baseline, metric: train_accuracy}
    at_most: 1
  - says: It is open
    quantity: {kind: value, arm: baseline, metric: jacobian_norm}
    at_most: 1
"""


def script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "results_index.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_page_is_not_stale() -> None:
    found = script("--check")
    assert found.returncode == 0, found.stderr


def test_every_recorded_run_is_of_an_experiment_and_every_figure_is_listed() -> None:
    recorded = json.loads((RESULTS / "claims.json").read_text())
    assert {run["experiment"] for run in recorded.values()} <= set(shipped())
    page = (RESULTS / "README.md").read_text()
    for entry in entries():
        assert f"`{entry.name}`" in page
    for key, run in recorded.items():
        assert key == f"{run['experiment']} ({run['preset']})"
        assert run["claims"]
        for claim in run["claims"]:
            assert claim["state"] in ("held", "not held", "open")


def test_experiments_come_in_the_order_of_papers_and_figures() -> None:
    found = entries()
    papers = [entry.paper for entry in found]
    assert list(dict.fromkeys(papers)) == ["grokalign", "rich-regime", ""]
    first = [entry.figures[0] for entry in found if entry.paper == "grokalign"]
    numbered = [int(figure[3:]) for figure in first if figure.startswith("fig")]
    assert numbered == sorted(numbered)
    assert [e.name for e in found if not e.paper] == sorted(e.name for e in found if not e.paper)


def test_a_run_is_judged_by_the_claims_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    records = importlib.import_module("records")
    run = Run(grokking(tmp_path / "run"))
    now = load_experiment("digits-grokking").claims
    assert {claim["says"] for claim in run.spec["claims"]} != {claim.says for claim in now}
    found = records.judged(run)
    assert [claim["says"] for claim in found] == [claim.says for claim in now]
    assert {claim["says"][:30]: claim["state"] for claim in found}[
        "Weight decay alone needs at le"
    ] == "held"


def test_a_run_joins_the_record_and_a_stale_page_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("claims.json", "README.md"):
        shutil.copy(RESULTS / name, folder)
    (tmp_path / "small.yaml").write_text(SPEC)
    experiment = load_experiment(str(tmp_path / "small.yaml"), num_seeds=2)
    run_experiment(experiment, tmp_path / "run", device="cpu")
    found = script(tmp_path / "run", "--folder", folder)
    assert found.returncode == 0, found.stderr
    run = json.loads((folder / "claims.json").read_text())["small (quick)"]
    assert [(claim["says"], claim["state"]) for claim in run["claims"]] == [
        ("It fits nothing", "held"),
        ("It is open", "open"),
    ]
    assert (run["seeds"], run["steps"], run["state"]) == (2, [7], "finished")

    recorded = json.loads((folder / "claims.json").read_text())
    recorded["mnist-table2 (quick)"]["claims"][0]["state"] = "not held"
    (folder / "claims.json").write_text(json.dumps(recorded))
    found = script("--check", "--folder", folder)
    assert found.returncode == 1
    assert "is stale" in found.stderr
