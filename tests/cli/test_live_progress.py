"""How far a run is: bars on a terminal, lines now and then in a file."""

from __future__ import annotations

import io
import types

import pytest
from rich.console import Console

from grokscope.cli import progress
from grokscope.cli.progress import LiveProgress

ROW = {"step": 1200, "train_accuracy": 0.25, "test_accuracy": 0.5}


def test_a_file_has_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    written = io.StringIO()
    with LiveProgress(Console(file=written, width=80), num_seeds=2) as live:
        live.trial_started("baseline", 3, 5000)
        for second, step in ((0.0, 1200), (9.9, 1300), (10.0, 1400), (10.1, 1500), (20.0, 1600)):
            now[0] = 100.0 + second
            live.evaluated("baseline", 3, {**ROW, "step": step}, 1.0)
    lines = written.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["baseline seed 3", "step 1,200"],
        ["baseline seed 3", "step 1,500"],
    ]
    assert all("25%" in line and "50%" in line for line in lines)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_a_terminal_has_a_bar_for_each_training(num_seeds: int) -> None:
    written = io.StringIO()
    console = Console(file=written, width=100, force_terminal=True)
    with LiveProgress(console, num_seeds) as live:
        live.trial_started("baseline", 3, 5000)
        live.evaluated("baseline", 3, ROW, 1.0)
        live.trial_started("grokalign", 3, 700)
        live.trial_finished("grokalign", 3, types.SimpleNamespace(steps=650))  # type: ignore
    first, second = live._progress.tasks
    name = "baseline" if num_seeds == 1 else "baseline seed 3"
    assert (first.description, first.completed, first.total) == (name, 1200, 5000)
    assert (second.completed, second.total) == (650, 650)
    shown = written.getvalue()
    assert "1,200/5,000" in shown
    assert "25%" in shown
    assert "step 1,200" not in shown
