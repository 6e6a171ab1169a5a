"""A run that trains is followed: its page loads itself, and a view stands in the terminal."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from grokscope.cli import watch as watch_module
from grokscope.cli.watch import watch
from grokscope.report import write_report
from grokscope.runs import Run, RunDirectory
from tests.report import made_up_runs
from tests.report.browser import Browser, Tab


class Training:
    """A run directory in the hands of a training that this test is."""

    def __init__(self, path: Path) -> None:
        arms = made_up_runs.spec()["arms"]
        for entry in arms.values():
            entry["training"]["max_steps"] = 1000
        self.path = path
        self._directory = RunDirectory.create(path, made_up_runs.spec(arms=arms), "cpu", [0])

    def evaluate(self, step: int) -> None:
        row = {"step": step, "train_accuracy": min(1.0, step / 100), "test_accuracy": step / 1000}
        for arm in ("baseline", "grokalign"):
            self._directory.trial(arm, 0).append(row, {"train_seconds": step / 100})

    def end(self) -> None:
        for arm in ("baseline", "grokalign"):
            self._directory.trial(arm, 0).finish(stopped="max_steps", steps=1000)
        self._directory.close("finished")


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    run = Training(tmp_path / "run")
    run.evaluate(0)
    yield run
    run.end()


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and text in (found := path.read_text()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{text!r} has not come into {path}")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_page_is_written_anew_until_the_run_has_ended(tmp_path: Path, terminal: bool) -> None:
    training = Training(tmp_path / "run")
    training.evaluate(0)
    file = io.StringIO()
    # a line of a file is not broken, however long
    console = Console(file=file, width=80 if terminal else 30, force_terminal=terminal)
    ended: list[Path] = []
    watching = threading.Thread(
        target=lambda: ended.append(watch([training.path], None, console, seconds=0.1))
    )
    watching.start()
    page = training.path / "report.html"
    assert 'data-refresh="1"' in wait_for(page, "at step 0")
    training.evaluate(500)
    assert 'data-refresh="1"' in wait_for(page, "at step 500")
    assert not ended
    training.evaluate(1000)
    training.end()
    watching.join(timeout=60)
    assert ended == [page]
    assert "data-refresh" not in page.read_text()
    shown = file.getvalue()
    if terminal:
        assert "Weight decay alone" in shown
        assert "50.0 %" in shown
        assert "✗ not held so far" in shown or "? open" in shown
    else:
        lines = shown.splitlines()
        assert lines[0] == "baseline seed 0 step 0; grokalign seed 0 step 0"
        assert "baseline seed 0 step 500; grokalign seed 0 step 500" in lines


def test_a_terminal_has_a_line_for_each_training_and_each_claim(training: Training) -> None:
    training.evaluate(500)
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    console.print(watch_module._view([Run(training.path)], Path("page.html")))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    assert lines == [
        "Grokking on real handwritten digits",
        "condition                         step  train accuracy  test accuracy  ",
        "Weight decay alone  ━━━━━━        500   100.0 %         50.0 %         ",
        "GrokAlign           ━━━━━━        500   100.0 %         50.0 %         ",
        "Weight decay alone and GrokAlign: none has generalized yet, at step 500.",
        "? open: GrokAlign generalizes at least 5 times sooner than weight decay alone ",
        "[unknown]",
        "? not held so far: Weight decay alone ends above 95 % test accuracy [50.0 %]",
        "? open: Regions grow around the training points [nothing yet]",
        "",
        "Page: page.html   (Ctrl-C stops watching, not the run)",
    ]


def test_seeds_are_told_apart_and_a_run_without_steps_has_no_bar(tmp_path: Path) -> None:
    arms = {"baseline": {"title": "Plain"}, "other": {"training": {"max_steps": 20}}}
    with RunDirectory.create(tmp_path / "run", {"name": "x", "arms": arms}, "cpu", [0, 1]) as run:
        assert watch_module._line([Run(run.path)]) == "no evaluation yet"
        for arm, seed in (("baseline", 0), ("baseline", 1), ("other", 0)):
            run.trial(arm, seed).append({"step": 7, "train_loss": 0.5}, {"train_seconds": 0.0})
            run.trial(arm, seed).append({"step": 9, "test_loss": 0.25}, {"train_seconds": 1.0})
    opened = Run(run.path)
    columns = [list(column.cells) for column in watch_module._table(opened).columns]
    assert [str(cell) for cell in columns[0]] == ["Plain, seed 0", "Plain, seed 1", "other"]
    assert [type(cell).__name__ for cell in columns[1]] == ["Text", "Text", "ProgressBar"]
    assert columns[2] == ["9", "9", "9"]
    assert [float(cell) for column in columns[3:5] for cell in column] == [0.5] * 3 + [0.25] * 3


def test_nothing_is_drawn_between_two_checks_and_ctrl_c_ends_in_a_page(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        assert threading.active_count() == before
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch_module, "time", SimpleNamespace(sleep=sleep))
    before = threading.active_count()
    file = io.StringIO()
    page = watch([training.path], None, Console(file=file, width=80, force_terminal=True))
    assert slept == [5, 5]
    assert file.getvalue().endswith("\x1b[2K")  # the view is taken away
    assert "data-refresh" not in page.read_text()


def test_a_run_that_is_over_has_one_page_and_no_end_to_wait_for(runs: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    page = watch([runs / "killed"], tmp_path / "page.html", console, seconds=1000)
    assert "data-refresh" not in page.read_text()
    assert write_report([runs / "finished"], tmp_path / "p.html", refresh=3).exists()
    assert "data-refresh" not in (tmp_path / "p.html").read_text()


def loaded_again(tab: Tab, before: float) -> None:
    tab.wait(f"performance.timeOrigin > {before}")
    tab.wait("document.documentElement?.dataset.ready === 'yes'")


@pytest.mark.browser
def test_a_page_that_loads_itself_keeps_what_was_chosen(
    browser: Browser, training: Training
) -> None:
    training.evaluate(10)
    tab = browser.open(write_report([training.path], refresh=1), 1280, 900)
    pause = "document.querySelector('[data-pause]')"
    tab.evaluate(f"{pause}.click()")
    before = tab.evaluate("performance.timeOrigin")
    traces = "document.querySelectorAll('#d0 .scatterlayer .trace').length"
    button = "document.querySelector('[data-plot=d0][data-target=baseline]')"
    assert tab.evaluate(traces) == 4
    tab.evaluate(f"{button}.click()")
    tab.evaluate("document.querySelectorAll('details')[1].open = true")
    tab.evaluate("scrollTo(0, 300)")
    training.evaluate(700)
    write_report([training.path], refresh=1)
    time.sleep(1.5)
    assert tab.evaluate("performance.timeOrigin") == before  # it is paused
    tab.evaluate(f"{pause}.click()")
    loaded_again(tab, before)
    assert "at step 700" in tab.evaluate("document.body.textContent")
    assert tab.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    assert tab.evaluate(traces) == 2
    assert tab.evaluate("document.querySelectorAll('details')[1].open")
    assert tab.evaluate("scrollY") == 300
    assert tab.evaluate(f"{pause}.textContent") == "Pause"
    assert tab.complaints() == []
