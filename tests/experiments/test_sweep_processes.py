"""The engine of one machine: what its processes are given, and how their end is told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from grokscope.experiments.sweep import Job, Outcome, ProcessEngine, processes, visible_gpus


def outcomes(engine: ProcessEngine, number: int) -> list[Outcome]:
    """What is told of so many jobs, within a minute."""
    found: list[Outcome] = []
    deadline = time.monotonic() + 60
    while len(found) < number and time.monotonic() < deadline:
        found += engine.ended()
        time.sleep(0.01)
    return found


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short programs in place of runs: what a job's device says is what they do."""
    real = subprocess.Popen

    def begin(arguments: list[str], **options: object) -> subprocess.Popen[bytes]:
        program = arguments[-1].split('"device": "')[1].split('", "data_dir"')[0]
        return real([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(processes.subprocess, "Popen", begin)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("program", "state", "said"),
    [
        ("pass", "finished", ""),
        ("exit(75)", "busy", ""),
        ("exit(130)", "failed", "its process was stopped"),
        ("print(1); print(2); exit(3)", "failed", "1\n2"),
        ("exit(3)", "failed", "its process ended with exit code 3"),
        ("import os; os.abort()", "failed", "its process was killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "SIGKILL (was memory short?)"),
    ],
)
def test_how_a_process_ends_is_told(tmp_path: Path, program: str, state: str, said: str) -> None:
    engine = ProcessEngine(1)
    engine.start([Job(str(tmp_path), 0, program)])
    assert engine.room() == 0
    (outcome,) = outcomes(engine, 1)
    assert outcome.state == state
    assert said in outcome.message
    assert engine.room() == 1


@pytest.mark.usefixtures("stand_in")
def test_processes_that_do_not_end_when_asked_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.3)
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN)"
    deaf = f"{ignore}; print(1, flush=True); time.sleep(99)"
    engine = ProcessEngine(1)
    job = Job(str(tmp_path), 0, deaf)
    engine.start([job])
    while "1" not in (job.run / "output.log").read_text():
        time.sleep(0.01)
    (process,) = engine._running.values()
    engine.stop()
    assert process.returncode == -9


@pytest.mark.usefixtures("stand_in")
def test_each_job_sees_one_gpu_and_its_own_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wait = "import time; time.sleep(99)"
    first, second, third, fourth = (Job(str(tmp_path), s, wait, threads=2) for s in range(4))
    engine = ProcessEngine(3, ["4", "6"])
    engine.start([first, second, third])
    seen = [engine.environment(job)["CUDA_VISIBLE_DEVICES"] for job in (first, second, third)]
    assert seen == ["4", "6", "4"]
    assert engine.environment(first)["OMP_NUM_THREADS"] == "2"
    engine._running[second].kill()
    outcomes(engine, 1)
    engine.start([fourth])
    assert engine.environment(fourth)["CUDA_VISIBLE_DEVICES"] == "6"
    engine.stop()


def test_there_are_no_gpus_on_a_cpu() -> None:
    assert visible_gpus("cpu") == []


def test_no_workers_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="--workers must be a positive number: got 0"):
        ProcessEngine(0)
