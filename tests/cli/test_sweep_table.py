"""What a sweep shows while it works, on a terminal and in a log file."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from grokscope.cli import sweep_table
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


def test_a_terminal_of_80_columns_shows_what_goes_on(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_table, "time", SimpleNamespace(monotonic=lambda: 3600.0))
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, height=24, color_system=None)
    with SweepTable(console, tmp_path, plan) as table:
        table.tick(states(tmp_path, plan))
    # Without what moves the cursor; the table is drawn, and once more where it ends.
    lines = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", written.getvalue()).splitlines()
    assert lines[:7] == [
        "1 run(s) were finished before",
        "",
        "1 of 6 finished, 2 running, 1 elsewhere, 1 failed, 1 waiting, 0 s",
        "run              condition       step  train  test       time",
        "lr=0.001/seed-1  grokalign 2/2  1,280   100%   46%  1 h 0 min",
        "lr=0.001/seed-2  starting                           1 h 0 min",
        "lr=0.003/seed-0  elsewhere                          1 h 0 min",
    ]


@pytest.mark.parametrize(("height", "rows"), [(7, 3), (3, 3), (8, 4), (9, 5), (10, 6)])
def test_a_small_terminal_says_how_many_more_there_are(
    tmp_path: Path, plan: Plan, height: int, rows: int
) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, height=99, color_system=None)
    with SweepTable(console, tmp_path, plan) as table:
        console.height = height
        shown = table._rows({job: RunState("running") for job in jobs(tmp_path, plan)})
    assert shown.row_count == rows + (rows < 6)
    assert list(shown.columns[0].cells)[-1] == (
        f"and {6 - rows} more" if rows < 6 else "lr=0.003/seed-2"
    )


def test_the_table_is_drawn_anew_twice_a_second_and_only_by_its_ticks(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(sweep_table, "time", SimpleNamespace(monotonic=lambda: now[0]))
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, color_system=None)
    waiting = {job: RunState("waiting") for job in jobs(tmp_path, plan)}
    before = threading.active_count()
    with SweepTable(console, tmp_path, plan) as table:
        assert threading.active_count() == before
        for second in (0.0, 0.5, 0.6, 1.05, 1.2):
            now[0] = second
            table.tick(waiting)
        now[0] = 0.0
    assert re.findall(r"waiting, (\d s)", written.getvalue())[:3] == ["0 s", "1 s", "1 s"]
    assert written.getvalue().count("6 waiting") == 4  # the last is drawn again, and taken away
    assert written.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("width", [90, 48, 30])
def test_a_narrow_terminal_cuts_what_is_long_and_breaks_no_line(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sweep_table, "time", SimpleNamespace(monotonic=lambda: 3600.0))
    shown = states(tmp_path, plan)
    (job,) = (job for job in shown if (job.run / "metrics.jsonl").exists())
    row = {"arm": "an-arm-with-a-long-name", "step": 5, "train_accuracy": None}
    (job.run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width, color_system=None)
    table = SweepTable(console, tmp_path, plan)
    console.print(table._rows(shown))
    lines = written.getvalue().splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("lr=0.001/seed-1 " if width == 90 else "lr=")
    assert ("an-arm-with-a-lon… " if width == 90 else "…") in lines[1]
    assert table._cells(job, shown[job])[1] == "an-arm-with-a-long-name 0/2"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (3600 * 25 + 119, "25 h 1 min"),
    ],
)
def test_seconds_as_a_clock_tells_them(seconds: float, text: str) -> None:
    assert sweep_table._clock(seconds) == text


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
