"""The line that says how far a training is: where it is shown, what it says, and that it goes."""

from __future__ import annotations

import io
import itertools
import os
import pty
import select
import signal
import subprocess
import sys
import time
import types
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.training import progress_line
from grokscope.training.member import Member
from grokscope.training.settings import TrainingSettings

X, Y = torch.eye(6), torch.arange(6) % 3
DATA = (X, Y, X, Y)
SETTINGS: dict[str, Any] = {"lr": 1e-2, "device": "cpu"}


def network(seed: int = 0) -> nn.Module:
    return gs.MLP(6, [4], 3, seed=seed)


class Stream(io.StringIO):
    """A stderr that is, or is not, a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def watched(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A terminal in the place of stderr; within a test, as pytest sets its own before each."""
    stream = Stream(is_terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress_line, "_SHARE", 0)
    monkeypatch.setattr(progress_line._Terminal, "interval", 0.0)
    return stream


def drawn(stream: Stream) -> list[str]:
    """The lines that were drawn, one over the other, without their colors."""
    from rich.text import Text

    return [Text.from_ansi(part).plain for part in stream.getvalue().split("\r") if "/" in part]


def is_left_as_it_was(written: str) -> bool:
    """Whether the cursor is shown again and the last line drawn is erased."""
    shown, erased = written.rfind("\x1b[?25h"), written.rfind("\x1b[2K")
    return -1 < written.rfind("\x1b[?25l") < shown < erased and "/" not in written[erased:]


def test_a_training_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    result = gs.fit(network(), DATA, max_steps=40, **SETTINGS)
    lines = drawn(terminal)
    assert lines[0].split()[0] == "1/40"
    assert lines[-1].split()[0] == "40/40"
    before_the_last = 100 * result.history["train_accuracy"][-2]
    assert f"train {before_the_last:3.0f}%  test {before_the_last:3.0f}%" in lines[-1]
    assert "0:00, 0:00 left" in lines[-1]
    assert all(len(line) <= 80 for line in lines)
    assert is_left_as_it_was(terminal.getvalue())


@pytest.mark.parametrize("vectorize", [True, False])
def test_many_seeds_on_a_terminal(monkeypatch: pytest.MonkeyPatch, vectorize: bool) -> None:
    terminal = watched(monkeypatch)
    how = {"vectorize": vectorize, "max_steps": 5, **SETTINGS}
    gs.fit_seeds(network, DATA, [0, 1, 2], **how)
    counts = [line.split()[0] for line in drawn(terminal)]
    expected = range(3, 16, 3) if vectorize else range(1, 16)
    assert counts[: len(expected)] == [f"{done}/15" for done in expected]
    assert ("0/3 seeds" if vectorize else "2/3 seeds") in drawn(terminal)[-1]
    assert is_left_as_it_was(terminal.getvalue())


def test_what_is_left_is_told_by_the_pace_since_the_first_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, told = [5.0], []
    clock = types.SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(progress_line, "time", clock)

    class Place:
        interval = 1.0

        def draw(self, completed: int, total: int, text: str) -> None:
            told.append((completed, total, text))

        def close(self) -> None: ...

    ended, trained, waiting = (object.__new__(Member) for _ in range(3))
    for seed, (member, stopped, reached) in enumerate(
        ((ended, "target", 7), (trained, None, 3), (waiting, None, 10))
    ):
        member.settings, member.seed = TrainingSettings(max_steps=100), seed
        member.stopped, member.reached = stopped, reached
    line = progress_line.ProgressLine([ended, trained, waiting], Place())
    for at, step in ((5.9, 35), (6.0, 40), (6.9, 45), (7.0, 41), (10.0, 70), (3700.0, 100)):
        now[0] = at
        line.at([trained], step)
        row = {"train_accuracy": step / 100, "test_accuracy": 0.5, "train_loss": 1.0}
        line.evaluated(trained, row)
    # the first line, and one that is due a second later: no pace yet, then one step in a second
    assert [of[:2] for of in told] == [(150, 300), (151, 300), (180, 300), (210, 300)]
    words = [of[2].split("  ") for of in told]
    assert words[0][-1] == "0:01"
    assert words[1][-1] == "0:02, 2:29 left"
    assert words[2][-1] == "0:05, 0:16 left"  # thirty steps in four seconds, 120 to go
    assert words[3][-1] == "1:01:35, 1:32:21 left"
    assert all(of[0] == "1/3 seeds" for of in words)
    assert "train  45%" in told[1][2]


def test_the_means_of_seeds_are_of_what_all_of_them_have() -> None:
    rows = [{"train_loss": 1.0, "test_loss": 2.0, "step": 1}, {"train_loss": 2.0, "step": 2}]
    assert progress_line._mean(rows) == {"train_loss": 1.5}
    assert progress_line._mean([]) == {}


def test_a_resumed_training_counts_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    terminal = watched(monkeypatch)
    for steps in (4, 8):
        terminal.truncate(terminal.seek(0))
        gs.fit(network(), DATA, max_steps=steps, out=tmp_path, resume=steps > 4, **SETTINGS)
    assert [line.split()[0] for line in drawn(terminal)][:4] == ["5/8", "6/8", "7/8", "8/8"]


class Ending(gs.Grokfast):
    """A method that ends training at its third step."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def filter_gradients(self, step: int, networks: Any) -> None:
        if step == 3:
            raise self.error


def test_it_is_gone_after_ctrl_c_and_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    result = gs.fit(network(), DATA, methods=[Ending(KeyboardInterrupt)], max_steps=5, **SETTINGS)
    assert (result.stopped, result.steps) == ("interrupted", 2)
    assert is_left_as_it_was(terminal.getvalue())
    terminal.truncate(terminal.seek(0))
    with pytest.raises(ZeroDivisionError):
        gs.fit(network(), DATA, methods=[Ending(ZeroDivisionError)], max_steps=5, **SETTINGS)
    assert is_left_as_it_was(terminal.getvalue())


def test_it_is_drawn_now_and_then_and_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    ticks = iter(range(10**6))
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks) / 100)  # 10 ms a glance
    monkeypatch.setattr(progress_line, "time", clock)
    monkeypatch.setattr(progress_line._Terminal, "interval", 0.5)
    gs.fit(network(), DATA, max_steps=400, **SETTINGS)
    steps = list(dict.fromkeys(int(line.split("/")[0]) for line in drawn(terminal)))
    assert len(steps) >= 7, steps
    gaps = [later - earlier for earlier, later in itertools.pairwise([0, *steps])]
    assert min(gaps) >= 45, steps
    terminal.truncate(terminal.seek(0))
    gs.fit(network(), DATA, max_steps=40, **SETTINGS)
    assert terminal.getvalue() == ""  # a training that is over before the first


@pytest.mark.parametrize("ways", ["not a terminal", "dumb", "off", "of an experiment", "a thread"])
def test_nothing_is_written_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, ways: str, tmp_path: Any
) -> None:
    terminal = watched(monkeypatch)
    more: dict[str, Any] = {}
    if ways == "not a terminal":
        terminal.is_terminal = False
        monkeypatch.setenv("FORCE_COLOR", "1")
    elif ways == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    elif ways == "off":
        more["progress"] = False
    elif ways == "a thread":
        monkeypatch.setattr(progress_line, "_is_first", lambda: False)
    if ways == "of an experiment":
        spec = {"name": "x", "title": "x", "seeds": [0], "arms": {"run": {"title": "x"}}}
        with gs.RunDirectory.create(tmp_path, spec, "cpu", [0]) as run:
            more["out"] = [run.trial("run", 0)]
            gs.fit_seeds(network, DATA, [0], max_steps=3, **more, **SETTINGS)
    else:
        gs.fit(network(), DATA, max_steps=3, **more, **SETTINGS)
    assert terminal.getvalue() == ""


def test_true_writes_lines_of_text_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    terminal.is_terminal = False
    monkeypatch.setattr(progress_line._Lines, "interval", 0.0)
    gs.fit(network(), DATA, max_steps=3, progress=True, **SETTINGS)
    lines = terminal.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["1/3 steps", "2/3 steps", "3/3 steps"]
    assert "train" in lines[-1]
    assert "\x1b" not in terminal.getvalue()


def test_a_notebook_has_a_bar_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    shown: list[str] = []

    class Handle:
        def update(self, page: str) -> None:
            shown.append(page)

    def display(page: str, display_id: bool) -> Handle:
        assert display_id
        return Handle()

    pages = types.SimpleNamespace(HTML=str, display=display)
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython.display", pages)  # type: ignore[arg-type]
    notebook: Any = types.SimpleNamespace(get_ipython=lambda: shell, display=pages)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setattr(progress_line._Notebook, "interval", 0.0)
    gs.fit(network(), DATA, max_steps=3, **SETTINGS)
    assert shown[0].startswith('<progress value="1" max="3"></progress>')
    assert "3/3 steps  train" in shown[-2]
    assert shown[-1] == ""
    assert terminal.getvalue() == ""


def test_what_it_may_be_is_named() -> None:
    with pytest.raises(ValueError, match="progress must be True, False or \"auto\": got 'yes'"):
        gs.fit(network(), DATA, max_steps=1, progress="yes", **SETTINGS)


SCRIPT = """
import signal, torch, grokscope as gs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start tests with it ignored
x, y = torch.eye(6), torch.arange(6) % 3
result = gs.fit(gs.MLP(6, [4], 3, seed=0), (x, y, x, y), max_steps=10**9, device="cpu")
print("ended:", result.stopped, result.steps > 0, flush=True)
"""


def test_ctrl_c_on_a_real_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    done = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written, deadline, pressed = b"", time.monotonic() + 120, False
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            found = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        written += found
        if not pressed and b"/1,000,000,000" in written:
            done.send_signal(signal.SIGINT)
            pressed = True
    os.close(ours)
    text = written.decode()
    assert done.wait(60) == 0, text
    line, _, end = text.rpartition("ended: ")
    assert end.split() == ["interrupted", "True"]
    assert is_left_as_it_was(line)
