"""Submitit for real, with processes of this machine in place of SLURM's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grokscope.experiments.sweep import Job, plan_sweep, work_through
from grokscope.extras import MissingExtra
from grokscope.integrations.slurm_engine import ResumableWork, SlurmEngine
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
