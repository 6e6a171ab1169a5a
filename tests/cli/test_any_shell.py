"""Any terminal, any title, no room: one line on stderr, an exit code that a script can go by."""

from __future__ import annotations

import errno
import io
import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from grokscope.cli import console, entry
from grokscope.runs import Run
from tests.cli.running import environment, grokscope, start

TITLE = "Brackets [red] [/bold] :smile: [0] µ×"
SPEC = f"""
name: small
title: "{TITLE}"
threads: 1
data: {{name: digits, train_size: 50}}
model: {{widths: [8]}}
training: {{max_steps: 4}}
monitor: {{measures: [weight_norm]}}
arms:
  baseline: {{title: "[a] [/b]"}}
claims:
  - says: "[never] [/x]"
    quantity: {{kind: value, arm: baseline, metric: train_accuracy}}
    at_least: 0.999
"""


def test_brackets_stand_and_letters_fall_back_where_a_terminal_has_ascii_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "s.yaml").write_text(SPEC, "utf-8")
    command = ["run", "s.yaml", "--out", "there", "--resume", "--check"]
    done = grokscope(*command, folder=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 1, done.stderr
    assert TITLE.replace("µ×", "??") in done.stdout
    assert "There is no run in there to go on with: it starts now." in done.stdout
    for words in ("[a] [/b] did not generalize", "not held: [never] [/x]"):
        assert words in done.stdout
    assert done.stderr.strip() == ("grokscope: 1 of 1 claims did not hold: [never] [/x] (not held)")
    assert Run(tmp_path / "there").title == TITLE
    assert TITLE in (tmp_path / "there/report.html").read_text("utf-8").replace("&#39;", "'")


@pytest.mark.parametrize(("encoding", "found"), [("ascii", "\\u00b5"), ("utf-8", "µ")])
def test_json_is_whole_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, found: str
) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", written)
    console.print_json({"title": "µ"})
    written.flush()
    text = written.buffer.getvalue().decode(encoding)
    assert text == f'{{\n  "title": "{found}"\n}}\n'
    assert json.loads(text) == {"title": "µ"}


def test_a_full_disk_behind_the_output_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "grokscope", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
    assert done.stderr == "grokscope: could not write the output: No space left on device\n"
    assert done.returncode == 2


def test_a_reader_that_goes_away_is_no_mistake(tmp_path: Path) -> None:
    with start("list", "--json", folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments", [["run", "n" * 300], ["report", "n" * 300], ["run", "a/" * 3000 + "x.yaml"]]
)
def test_a_name_that_is_too_long_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["grokscope", *arguments])
    assert entry._run() == 2
    said = capsys.readouterr().err
    assert said.startswith("grokscope: c")
    assert said.endswith("File name too long\n")
    assert len(said) < 7000


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: no more is to be had; a smaller network, batch or probe"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: 7\nx"),
            "memory: [enf",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate"),
            "out of memory: CUDA out of memory",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[7]"), "memory: Storage"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "could not use /x: Permission"),
        (ValueError("lr is bad"), "grokscope: lr is bad"),
    ],
)
def test_what_a_machine_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    def fails() -> int:
        raise error

    monkeypatch.setattr("grokscope.cli.app.run_app", fails)
    assert entry._run() == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "Missing argument 'RUN...'."),
        (["list", "--jsn"], "No such option: --jsn"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["grokscope", *arguments])
    assert entry._run() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"grokscope: {said}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (OSError(errno.ENOSPC, "No space left"), 2, "could not write the output: No space left"),
        (OSError("odd"), 2, "could not write the output: odd"),
    ],
    ids=["a pipe", "a disk", "something"],
)
def test_output_that_cannot_go_on_ends_in_silence_or_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: OSError,
    code: int,
    said: str,
) -> None:
    def fails() -> int:
        raise error

    monkeypatch.setattr("grokscope.cli.app.run_app", fails)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert entry._run() == code
        out.write("what stood in the buffer is not tried again")
    assert (tmp_path / "out").read_text() == ""
    assert capsys.readouterr().err == (f"grokscope: {said}\n" if said else "")


def test_what_an_error_quotes_is_bounded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, quoted, most in (
        (RuntimeError("out of memory" + "x" * 999), "out of memory" + "x" * 287, 300),
        (OSError(errno.EACCES, "no", "n" * 999), "n" * 200 + "...", 203),
    ):
        monkeypatch.setattr("grokscope.cli.app.run_app", mock.Mock(side_effect=error))
        assert entry._run() == 2
        said = capsys.readouterr().err
        assert quoted in said
        assert len(quoted) == most
        assert quoted[-4] * (most + 1) not in said
        assert f"{quoted}x" not in said


def test_consoles_print_what_they_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No markup, no emoji and no colors of numbers, each to its own stream, also in color."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    fresh = runpy.run_path(str(console.__file__))
    text = "[bold]3.5[/bold] :smile: True 'x' /tmp"
    fresh["OUT"].print(text)
    assert capsys.readouterr() == (f"{text}\n", "")
    fresh["ERR"].print(text)
    assert capsys.readouterr() == ("", f"{text}\n")
    fresh["OUT"].print("red", style="red")
    assert "\x1b[31m" in capsys.readouterr().out  # it does write colors


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> int:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("grokscope.cli.app.run_app", fails)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        entry._run()


IMPORTING = """
from grokscope.cli.interruption import end_on_signals
end_on_signals()
try:
    import halfway
except BaseException as error:
    print("came out as", type(error))
print("went on")
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("SIGINT", 130, "grokscope: interrupted\n"),
        ("SIGTERM", 143, "grokscope: interrupted by SIGTERM\n"),
        ("SIGHUP", 129, "grokscope: interrupted by SIGHUP\n"),
    ],
)
def test_a_signal_within_an_import_ends_the_process_in_one_line(
    tmp_path: Path, name: str, code: int, said: str
) -> None:
    (tmp_path / "halfway.py").write_text(
        f"import os, signal\nos.kill(os.getpid(), signal.{name})\nimport json\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr, done.stdout) == (code, said, "")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom grokscope.cli.interruption import end_on_signals\n"
        "end_on_signals()\nos.kill(os.getpid(), signal.SIGHUP)\nprint('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, "went on\n")
