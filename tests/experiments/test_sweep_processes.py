"""The engine of one machine: what its processes are given, and how their end is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grokscope.experiments.sweep import Job, Outcome, ProcessEngine, processes, visible_gpus
from grokscope.experiments.sweep.engine import last_lines


def outcomes(engine: ProcessEngine, number: int) -> list[Outcome]:
    """What is told of so many jobs, within a minute."""
    found: list[Outcome] = []
    deadline = time.monotonic() + 60
    while len(found) < number and time.monotonic() < deadline:
        found += engine.ended()
        time.sleep(0.01)
    return found


WORKER = """
import json, os, signal, sys
answer = os.dup(1)
for line in sys.stdin:
    job = json.loads(line)
    log = os.open(os.path.join(job["folder"], "seed-%d" % job["seed"], "output.log"), 1 | 64 | 1024)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 0
    exec(job["device"])
    sys.stdout.flush()
    os.write(answer, b"%d\\n" % code)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a few lines in place of those with torch: what a job's device says is done."""
    real = subprocess.Popen

    def begin(arguments: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert arguments[1:] == ["-m", "grokscope.experiments.sweep"]
        return real([sys.executable, "-c", WORKER], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(processes.subprocess, "Popen", begin)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("program", "state", "said"),
    [
        ("pass", "finished", ""),
        ("code = 75", "busy", ""),
        ("print(1); print(2); code = 1", "failed", "1\n2"),
        ("exit(130)", "failed", "its process was stopped"),
        ("print(1); print(2); exit(3)", "failed", "1\n2"),
        ("raise KeyError(5)", "failed", "KeyError: 5"),
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
    engine.stop()


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
    (worker,) = engine._pool.values()
    engine.stop()
    assert worker.process.returncode == -9


@pytest.mark.usefixtures("stand_in")
def test_processes_that_end_when_asked_have_the_time_to(tmp_path: Path) -> None:
    slow = "import signal, time; signal.signal(15, lambda *_: (time.sleep(0.3), exit(130)))"
    engine = ProcessEngine(2)
    jobs = [
        Job(str(tmp_path), seed, f"{slow}; print(1, flush=True); time.sleep(99)") for seed in (0, 1)
    ]
    engine.start(jobs)
    while any("1" not in (job.run / "output.log").read_text() for job in jobs):
        time.sleep(0.01)
    workers = list(engine._pool.values())
    engine.stop()
    assert [worker.process.returncode for worker in workers] == [130, 130]


@pytest.mark.usefixtures("stand_in")
def test_one_process_takes_job_after_job_and_another_takes_over_from_one_that_crashed(
    tmp_path: Path,
) -> None:
    say = "print(os.getpid())"
    programs = [say, say, "os.kill(os.getpid(), 9)", say, "exit(3)", say]
    engine = ProcessEngine(1)
    told = []
    for seed, program in enumerate(programs):
        engine.start([Job(str(tmp_path), seed, program)])
        told += outcomes(engine, 1)
    engine.stop()
    assert [outcome.state for outcome in told] == [
        *("finished", "finished", "failed", "finished", "failed", "finished")
    ]
    assert [outcome.job.seed for outcome in told] == list(range(6))
    pids = [(tmp_path / f"seed-{seed}/output.log").read_text() for seed in (0, 1, 3, 5)]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3


@pytest.mark.usefixtures("stand_in")
def test_a_worker_that_died_between_two_jobs_is_replaced(tmp_path: Path) -> None:
    engine = ProcessEngine(1)
    engine.start([Job(str(tmp_path), 0, "pass")])
    outcomes(engine, 1)
    (worker,) = engine._pool.values()
    worker.process.kill()
    worker.process.wait()
    engine.start([Job(str(tmp_path), 1, "pass")])
    (outcome,) = outcomes(engine, 1)
    assert outcome.state == "finished"
    engine.stop()


@pytest.mark.usefixtures("stand_in")
def test_each_worker_sees_one_gpu_and_its_own_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    show = "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    engine = ProcessEngine(3, ["4", "6"])
    engine.start([Job(str(tmp_path), seed, show, threads=2) for seed in range(3)])
    outcomes(engine, 3)
    seen = [(tmp_path / f"seed-{seed}/output.log").read_text() for seed in range(3)]
    assert seen == ["4 2\n", "6 2\n", "4 2\n"]
    engine.stop()


@pytest.mark.parametrize(
    ("device", "named", "found"),
    [
        ("cpu", "0,1", []),
        ("cuda", None, ["0", "1", "2"]),
        ("cuda", "", ["0", "1", "2"]),
        ("cuda", "4,GPU-5", ["4", "GPU-5"]),
    ],
)
def test_gpus_are_those_of_the_device_and_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, device: str, named: str | None, found: list[str]
) -> None:
    monkeypatch.setattr(processes, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(device) == found


@pytest.mark.usefixtures("stand_in")
def test_a_worker_is_no_part_of_the_terminal_and_its_run_may_be_there(tmp_path: Path) -> None:
    engine = ProcessEngine(1)
    job = Job(str(tmp_path / "setting" / "deep"), 0, "pass")
    for _ in range(2):
        engine.start([job])
        (outcome,) = outcomes(engine, 1)
        assert outcome.state == "finished"
    (worker,) = engine._pool.values()
    assert os.getsid(worker.process.pid) == worker.process.pid
    engine.stop()
    assert engine._pool == {}


def test_what_is_told_of_a_log_is_its_end(tmp_path: Path) -> None:
    assert last_lines(tmp_path) == ""
    (tmp_path / "output.log").write_text("".join(f"{line}\n" for line in range(9)) + "\n \n")
    assert last_lines(tmp_path) == "3\n4\n5\n6\n7\n8"


def test_no_workers_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="--workers must be a positive number: got 0"):
        ProcessEngine(0)


def test_a_worker_tells_of_a_failure_in_a_line_and_takes_the_next_job(tmp_path: Path) -> None:
    engine = ProcessEngine(1)
    pids = []
    for seed in (0, 1):
        engine.start([Job(str(tmp_path), seed)])  # a folder without an experiment
        (outcome,) = outcomes(engine, 1)
        assert outcome.state == "failed"
        lost = tmp_path / "experiment.yaml"
        assert outcome.message == f"grokscope: {lost} is gone; start the sweep again"
        pids += [worker.process.pid for worker in engine._pool.values()]
    engine.stop()
    assert len(pids) == 2
    assert pids[0] == pids[1]
