"""What a sweep shows while it works, on a terminal and in a log file."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from grokscope.cli.sweep_table import SweepTable
from grokscope.experiments.sweep import Job, Plan, RunState, plan_sweep
from tests.cli.sweeping import SWEPT


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    return plan_sweep(str(tmp_path / "swept.yaml"), grid=["training.lr=1e-3,3e-3"], num_seeds=3)


def jobs(folder: Path, plan: Plan) -> list[Job]:
    return [
        Job(str(folder.resolve() / setting.name), seed)
        for setting in plan.settings
        for seed in plan.seeds
    ]


def states(folder: Path, plan: Plan) -> dict[Job, RunState]:
    names = ["done before", "running", "running", "elsewhere", "failed", "waiting"]
    found = {
        job: RunState(name)
        for job, name in zip(jobs(folder, plan), names, strict=True)  # type: ignore[arg-type]
    }
    running = list(found)[1]
    running.run.mkdir(parents=True)
    row = {"arm": "grokalign", "step": 1280, "train_accuracy": 1.0, "test_accuracy": 0.456}
    (running.run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return found


def test_a_terminal_of_80_columns_shows_what_goes_on(tmp_path: Path, plan: Plan) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, height=24, color_system=None)
    with SweepTable(console, tmp_path, plan) as table:
        table.tick(states(tmp_path, plan))
    # Without what moves the cursor.
    lines = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", written.getvalue()).splitlines()
    assert any("1 run(s) were finished before" in line for line in lines)
    head = next(line for line in lines if "of 6 finished" in line)
    assert "1 of 6 finished, 2 running, 1 elsewhere, 1 failed, 1 waiting, 0 s" in head
    row = next(line for line in lines if "lr=0.001/seed-1" in line)
    assert row.split()[:6] == ["lr=0.001/seed-1", "grokalign", "2/2", "1,280", "100%", "46%"]
    assert any("lr=0.001/seed-2" in line and "starting" in line for line in lines)
    assert any("lr=0.003/seed-0" in line and "elsewhere" in line for line in lines)
    assert max(len(line) for line in lines) <= 80


def test_a_small_terminal_says_how_many_more_there_are(tmp_path: Path, plan: Plan) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, height=7, color_system=None)
    with SweepTable(console, tmp_path, plan) as table:
        table.tick({job: RunState("running") for job in jobs(tmp_path, plan)})
    assert "and 3 more" in written.getvalue()


def test_a_log_file_gets_a_line_for_each_event(tmp_path: Path, plan: Plan) -> None:
    written = io.StringIO()
    first, second, *_ = jobs(tmp_path, plan)
    with SweepTable(Console(file=written, width=80), tmp_path, plan) as table:
        table.changed(first, RunState("running", since=10.0))
        table.changed(first, RunState("finished", since=85.4))
        table.changed(second, RunState("failed", "no\nmemory", since=90.0))
        table.tick(states(tmp_path, plan))
    assert written.getvalue().splitlines() == [
        "started lr=0.001/seed-0",
        "finished lr=0.001/seed-0 after 1 min 15 s",
        "failed lr=0.001/seed-1",
        "    no",
        "    memory",
        "1 run(s) were finished before",
    ]
