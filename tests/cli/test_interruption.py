"""Kill a run for real, resume it, and compare with one that was left alone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from grokscope.runs import Run
from tests.cli.running import EXPERIMENT, environment, grokscope, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "small.yaml").write_text(EXPERIMENT)
    assert grokscope("run", "small.yaml", "--out", "run", folder=folder).returncode == 0
    return folder / "run"


def stop_after(
    command: Sequence[str], run: Path, lines: int, how: signal.Signals
) -> tuple[int, str]:
    """Start a command in the folder of its run and send it a signal once so many rows are written.

    One that is over before the signal comes, on a machine that is busy, is taken back and tried
    again. Returns the exit code and what was said.
    """
    before, code, err = run.with_name("before"), 0, ""
    if run.exists():
        shutil.copytree(run, before)
    for attempt in range(5):
        if attempt:
            shutil.rmtree(run)
            if before.exists():
                shutil.copytree(before, run)
        process = start(*command, folder=run.parent)
        metrics = run / "metrics.jsonl"
        while process.poll() is None:  # pytest's own time limit holds on a machine that is busy
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                process.send_signal(how)
                break
            time.sleep(0.002)
        err = process.communicate(timeout=60)[1]
        code = process.returncode
        if code != 0:
            break
    shutil.rmtree(before, ignore_errors=True)
    return code, err


def assert_same(run: Path, other: Path) -> None:
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for arm in ("baseline", "grokalign"):
        ours, theirs = (Run(path).checkpoint(arm, 0)["model"] for path in (run, other))
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), (arm, name)
        ours, theirs = (Run(path).arrays(arm, 0, "ntk_distance") for path in (run, other))
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), (arm, name)


def test_a_run_killed_again_and_again_ends_with_the_same_numbers(
    uninterrupted: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    command = ["run", "small.yaml", "--out", "run"]
    # Rows at which to kill: in the first arm, in the second, and near the very end.
    for kill, lines in enumerate((3, 29, 70)):
        resume = ["--resume"] if kill else []
        code, _ = stop_after([*command, *resume], tmp_path / "run", lines, signal.SIGKILL)
        assert code == -9
        assert Run(tmp_path / "run").status["state"] == "killed"
    done = grokscope(*command, "--resume", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", uninterrupted)
    assert Run(tmp_path / "run").status["state"] == "finished"
    assert len(Run(tmp_path / "run").env["resumed"]) == 3


def test_signals_leave_a_run_that_says_so_and_can_be_resumed(
    uninterrupted: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    command = ["run", "small.yaml", "--out", "run", "--resume"]
    for how, lines in ((signal.SIGINT, 5), (signal.SIGTERM, 25), (signal.SIGHUP, 60)):
        code, err = stop_after(command, tmp_path / "run", lines, how)
        assert code == 128 + how
        by = "" if how == signal.SIGINT else f" by {how.name}"
        assert err.strip() == (
            f"grokscope: interrupted{by}; what was recorded is kept, go on with --resume; a sweep "
            "by the same command"
        )
        assert Run(tmp_path / "run").status["state"] == "interrupted"
    assert grokscope(*command, folder=tmp_path).returncode == 0
    assert_same(tmp_path / "run", uninterrupted)


def test_other_settings_do_not_resume(uninterrupted: Path) -> None:
    done = grokscope(
        "run",
        "small.yaml",
        "--out",
        "run",
        "--resume",
        "--set",
        "training.lr=0.5",
        folder=uninterrupted.parent,
    )
    assert done.returncode == 2
    assert "arms.baseline.training.lr" in done.stderr


def test_a_second_signal_ends_the_process_without_a_word(tmp_path: Path) -> None:
    code = """
import atexit, os, signal
from grokscope.cli import app, entry
atexit.register(os.kill, os.getpid(), signal.SIGINT)
app.run_app = lambda: os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.SIG_DFL)
entry.main()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGINT  # 130 in a shell
    assert done.stderr.startswith("grokscope: interrupted; what was recorded is kept")
    assert done.stderr.count("\n") == 1
