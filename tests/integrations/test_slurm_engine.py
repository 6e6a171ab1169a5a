"""Submitit for real, with processes of this machine in place of SLURM's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from grokscope.experiments.sweep import Job, plan_sweep, work_through
from grokscope.extras import MissingExtra
from grokscope.integrations import slurm_engine
from grokscope.integrations.slurm_engine import ResumableWork, SlurmEngine
from grokscope.runs import RunDirectory
from tests.cli.running import SOURCE
from tests.cli.sweeping import SWEPT, assert_same, plain_runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    return plan_sweep(str(tmp_path / "swept.yaml"), num_seeds=2).write(tmp_path / "sweep").path


def test_jobs_come_to_what_runs_come_to_alone(
    sweep: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs grokscope[slurm]")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    rows = plain_runs(tmp_path_factory.mktemp("plain"))
    engine = SlurmEngine(sweep / ".slurm", workers=2, cluster="local")
    assert engine.room() == 2
    missing = Job(str(sweep / "absent"), 0, "cpu", None, 1)
    jobs = [*(Job(str(sweep), seed, "cpu", None, 1) for seed in rows), missing]
    states = work_through(jobs, engine)
    assert [state.state for state in states.values()] == ["finished", "finished", "failed"]
    assert "a disk that all of them share" in states[missing].message
    assert_same(sweep, rows)


def test_a_job_that_is_taken_away_is_submitted_again(sweep: Path) -> None:
    pytest.importorskip("submitit", reason="needs grokscope[slurm]")
    job = Job(str(sweep), 0)
    again = ResumableWork().checkpoint(job)
    assert isinstance(again.function, ResumableWork)
    assert again.args == (job,)


# A cluster without accounting: what squeue lists is in a file beside the commands.
COMMANDS = {
    "srun": "exit 0",
    "sbatch": "echo Submitted batch job 77",
    "scancel": "exit 0",
    "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
    "squeue": 'cat "${0%/*}/listed"',
}


def test_a_job_that_is_cancelled_is_noticed_without_accounting(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs grokscope[slurm]")
    for name, text in COMMANDS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / f"bin/{name}").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / f"bin/{name}").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(slurm_engine, "LOOK_SECONDS", 0.0)
    jobs = [Job(str(sweep), seed, "cpu", None, 1) for seed in range(3)]
    engine = SlurmEngine(sweep / ".slurm")
    engine.start(jobs)

    def ended(*states: str) -> list[tuple[int, str, str]]:
        lines = [f"77_{place} {state}\n" for place, state in enumerate(states) if state]
        (tmp_path / "bin/listed").write_text("".join(["78_0 CANCELLED\n", *lines]))
        return [(of.job.seed, of.state, of.message) for of in engine.ended()]

    assert ended("PENDING", "", "RUNNING") == []
    assert ended("CANCELLED", "", "RUNNING") == []
    assert ended("PENDING", "", "") == []  # put back into the queue; the last one is gone
    assert ended("CANCELLED", "RUNNING", "") == [
        (2, "failed", "SLURM's job 77_2: it left no result (gone from the queue)")
    ]
    assert ended("CANCELLED", "RUNNING") == [(0, "failed", "SLURM's job 77_0: it was cancelled")]
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\nexit 1\n")  # it does not answer: no news
    assert [ended(), ended()] == [[], []]
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\necho Invalid job id specified >&2; exit 1\n")
    assert ended() == []
    with RunDirectory.create(jobs[1].run, {"name": "swept"}, "cpu", [1]):
        pass
    assert ended() == [(1, "finished", "")]


def test_without_slurm_and_without_submitit_there_is_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs grokscope[slurm]")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"SLURM cannot be used as asked: .*srun"):
        SlurmEngine(tmp_path / ".slurm")
    with pytest.raises(ValueError, match=r"SLURM cannot be used as asked: .*slurm_partitoin"):
        SlurmEngine(tmp_path / ".slurm", options={"slurm_partitoin": "gpu"}, cluster="local")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtra, match=r"pip install 'grokscope\[slurm\]'"):
        SlurmEngine(tmp_path / ".slurm")
