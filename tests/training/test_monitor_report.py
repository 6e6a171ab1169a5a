"""The page of a report from a monitor alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import grokscope as gs
from grokscope.runs import RunError


def watched(steps: int) -> gs.Monitor:
    model = gs.MLP(64, [8], 10, seed=0)
    data = gs.load_data("digits", train_size=50, test_size=30)
    monitor = gs.Monitor(
        model, probe=data, test=(data.test_x, data.test_y), measures=["row_alignment"], pictures=2
    )
    for _ in range(steps):
        monitor.step()
    return monitor


def test_a_page_of_what_was_measured(tmp_path: Path) -> None:
    monitor = watched(3)
    before = [dict(row) for row in monitor.history]
    page = monitor.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    text = page.read_text("utf-8")
    assert "<h1" in text
    assert "MLP" in text
    assert "training data are not yet memorized" in text
    assert "Row alignment" in text
    assert [dict(row) for row in monitor.history] == before
    assert list(tmp_path.iterdir()) == [page], "nothing else is left behind"


def test_its_title_is_the_users(tmp_path: Path) -> None:
    assert "Night run" in watched(2).report(tmp_path, title="Night run").read_text("utf-8")


def test_a_monitor_that_has_measured_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no row has been measured yet"):
        watched(0).report(tmp_path / "page.html")


def test_a_regression_has_a_page_without_phases(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    x, y = torch.rand(8, 3), torch.rand(8, 1)
    monitor = gs.Monitor(model, probe=(x, y), loss="mse", measures=["weight_norm"])
    monitor.step(0)
    monitor.step(1)
    assert "Weight norm" in monitor.report(tmp_path / "page.html").read_text("utf-8")


def test_rows_of_a_run_directory_are_those_of_the_one_network(tmp_path: Path) -> None:
    monitor = watched(3)
    monitor.restore(gs.History({**row, "arm": "other", "seed": 7} for row in monitor.history))
    text = monitor.report(tmp_path / "page.html", title="Mine").read_text("utf-8")
    assert "other" not in text.split("<main", 1)[-1].split("Metrics during training")[0]
    assert "Phases" in text
