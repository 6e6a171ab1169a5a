"""A run directory: created, refused, resumed, read."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from grokscope.runs import Run, RunDirectory, RunError, TrialGroup

SPEC = {"name": "small", "arms": {"a": {}, "b": {}}, "claims": []}


def new_run(path: Path) -> RunDirectory:
    return RunDirectory.create(path, SPEC, "cpu", [0])


def test_a_run_is_plain_files(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as run:
        trial = run.trial("a", 0)
        trial.append({"step": 0, "loss": 1.0}, {"train_seconds": 0.5})
        trial.save_checkpoint(0, {"model": {"w": torch.ones(2)}}, keep=True, finished=True)
        trial.finish(stopped="max_steps", steps=0)
    names = {path.relative_to(tmp_path / "run").as_posix() for path in tmp_path.rglob("*.*")}
    assert names >= {
        "spec.yaml",
        "env.json",
        "status.json",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoints/a/seed-0/latest.safetensors",
        "checkpoints/a/seed-0/step-00000000.safetensors",
    }
    reader = Run(tmp_path / "run")
    assert reader.spec == SPEC
    assert reader.status["state"] == "finished"
    assert reader.status["trials"]["a/seed-0"]["stopped"] == "max_steps"
    assert reader.history("a", 0)["train_seconds"].tolist() == [0.5]
    assert reader.checkpoint("a", 0, 0)["model"]["w"].tolist() == [1.0, 1.0]
    assert reader.env["packages"]["torch"] == version("torch")


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    new_run(tmp_path / "run").close("finished")
    with pytest.raises(RunError, match="holds a run already; go on with --resume"):
        new_run(tmp_path / "run")


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        new_run(tmp_path / "file")


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        RunDirectory.resume(tmp_path, "cpu")


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    code = (
        "import sys; from grokscope.runs import RunDirectory, RunError\n"
        "try: RunDirectory.resume(sys.argv[1], 'cpu')\n"
        "except RunError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "is in use by another process" in said
    run.close("finished")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == ""


def test_failure_and_interruption_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError), new_run(tmp_path / "failed"):
        raise ZeroDivisionError

    assert Run(tmp_path / "failed").status["state"] == "failed"
    assert "ZeroDivisionError" in Run(tmp_path / "failed").status["error"]
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path / "interrupted"):
        raise KeyboardInterrupt
    assert Run(tmp_path / "interrupted").status["state"] == "interrupted"


def test_a_run_whose_process_is_gone_reads_as_killed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    assert Run(tmp_path / "run").status["state"] == "running"
    run._lock.release()
    assert Run(tmp_path / "run").status["state"] == "killed"


def test_rows_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    first, second = run.trial("a", 0), run.trial("b", 0)
    first.append({"step": 0}, {"train_seconds": 0.0})
    first.save_checkpoint(0, {}, keep=False, finished=True)
    second.append({"step": 0}, {"train_seconds": 0.0})
    TrialGroup([second]).save_checkpoint(0, {0: {"w": 1}})
    second.append({"step": 5}, {"train_seconds": 1.0})
    run._lock.release()
    again = RunDirectory.resume(tmp_path / "run", "cpu")
    assert again.trial("a", 0).finished() == {"step": 0, "finished": True}
    assert again.trial("b", 0).finished() is None
    assert TrialGroup([again.trial("b", 0)]).restore() == {0: {"w": 1, "step": 0}}
    assert [(row["arm"], row["step"]) for row in again.metrics.read()] == [("a", 0), ("b", 0)]
    assert len(again.timing.read()) == 2
    again.close("finished")


def test_rows_before_any_checkpoint_are_taken_back(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.trial("a", 0).append({"step": 0}, {"train_seconds": 0.0})
    assert TrialGroup([run.trial("a", 0)]).restore() == {0: None}
    assert run.metrics.read() == []
    run.close("finished")


def test_metrics_shortened_since_the_checkpoint_are_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    trial = run.trial("a", 0)
    trial.append({"step": 0}, {"train_seconds": 0.0})
    TrialGroup([trial]).save_checkpoint(0, {0: {}})
    run.metrics.truncate(3)
    with pytest.raises(RunError, match="shorter than when"):
        TrialGroup([trial]).restore()
    run.close("finished")


def test_an_arm_cannot_climb_out_of_the_run(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match="no name for an arm"):
        run.trial("../elsewhere", 0)
    run.close("finished")


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no folder"):
        Run(tmp_path / "gone")
    with pytest.raises(RunError, match="holds no run"):
        Run(tmp_path)
    new_run(tmp_path / "run").close("finished")
    with pytest.raises(RunError, match=r"holds no run: .*; name the runs in it, as .*/run$"):
        Run(tmp_path)
    (tmp_path / "run" / "status.json").write_text("{half")
    with pytest.raises(RunError, match=r"status\.json is not valid JSON"):
        _ = Run(tmp_path / "run").status
    assert json.loads((tmp_path / "run" / "env.json").read_text())["seeds"] == [0]
