"""Sweeps in processes of their own: killed, interrupted, repeated, always the same numbers."""

from __future__ import annotations

import json
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from grokscope.cli import sweep as sweep_command
from grokscope.cli.console import OUT
from grokscope.cli.sweep import sweep
from grokscope.experiments.sweep import Job, ProcessEngine, RunState, plan_sweep
from grokscope.runs import SweepFolder
from tests.cli.running import grokscope, start
from tests.cli.sweeping import (
    SEEDS,
    SWEPT,
    assert_same,
    is_alive,
    kill,
    plain_runs,
    wait_for_rows,
)

COMMAND = ("sweep", "swept.yaml", "--seeds", str(SEEDS), "--device", "cpu", "--out", "sweep")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    return plain_runs(tmp_path_factory.mktemp("plain"))


@pytest.mark.timeout(900)
def test_a_sweep_killed_and_interrupted_comes_to_what_its_runs_come_to_alone(
    rows: dict[int, bytes], tmp_path: Path
) -> None:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    folder = tmp_path / "sweep"

    # One run is killed: the other is finished all the same, and the sweep says what happened.
    process = start(*COMMAND, "--workers", "2", folder=tmp_path)
    kill(wait_for_rows(process, folder / "seed-0", 5))
    out, err = process.communicate(timeout=280)
    assert process.returncode == 1
    assert "failed seed-0" in out
    assert "killed by SIGKILL" in out
    assert "finished seed-1" in out
    assert "1 of 2 runs failed: seed-0; the same command goes on with them" in err
    states = [run.status["state"] for run in SweepFolder(folder).runs()[0].runs.values()]
    assert states == ["killed", "finished"]
    finished = (folder / "seed-1/status.json").read_bytes()

    # Repeated, it goes on with the one alone, and is interrupted.
    process = start(*COMMAND, "--workers", "1", folder=tmp_path)
    pid = wait_for_rows(process, folder / "seed-0", 26)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 130
    assert err == (
        "grokscope: interrupted; what was recorded is kept, go on with --resume; a sweep by the "
        "same command\n"
    )
    assert "1 run(s) were finished before" in out
    assert not is_alive(pid)
    assert json.loads((folder / "seed-0/status.json").read_text())["state"] == "interrupted"

    # Repeated once more, it is finished, and the other run was never touched again.
    done = grokscope(*COMMAND, "--workers", "3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "seed-1/status.json").read_bytes() == finished
    assert_same(folder, rows)
    assert (folder / "report.html").exists()
    assert SweepFolder(folder).runs()[0].status["state"] == "finished"

    # Once more, for a program: the same is told as JSON, and nothing else is on stdout.
    found = json.loads((done := grokscope(*COMMAND, "--json", folder=tmp_path)).stdout)
    assert (done.returncode, found["state"]) == (0, "finished")
    assert [(tmp_path / run["run"]).name for run in found["runs"]] == ["seed-0", "seed-1"]
    assert {run["state"] for run in found["runs"]} == {"finished"}
    assert Path(tmp_path / found["report"]) == folder / "report.html"
    (setting,) = found["settings"]
    assert {"run", "state", "finding", "claims"} == set(setting)
    assert [condition["arm"] for condition in found["conditions"]] == ["baseline", "grokalign"]
    assert "A small sweep" in done.stderr


def test_a_run_that_cannot_work_says_why(tmp_path: Path) -> None:
    (tmp_path / "swept.yaml").write_text(SWEPT.replace("{name: digits", "{name: mnist"))
    (tmp_path / "empty").mkdir()
    done = grokscope(*COMMAND, "--seeds", "1", "--data-dir", "empty", folder=tmp_path)
    assert done.returncode == 1
    assert "failed seed-0" in done.stdout
    assert "    grokscope: " in done.stdout
    assert "train-images" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    options = ("--seeds", "1", "--data-dir", "empty", "--json")
    told = grokscope(*COMMAND, *options, folder=tmp_path)
    (run,) = (found := json.loads(told.stdout))["runs"]
    assert (told.returncode, found["state"], run["state"]) == (1, "failed", "failed")
    assert "train-images" in run["message"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "rey"}, "unknown engine 'rey'; did you mean 'ray'?"),
        ({"engine": "slurm", "address": "auto"}, "--address is for the engine ray"),
        ({"engine": "ray", "slurm": ["partition=gpu"]}, "--slurm is for the engine slurm"),
        ({"slurm": ["gpu"]}, "--slurm takes key=value, as in partition=gpu: got 'gpu'"),
        ({"slurm": ["=gpu"]}, "--slurm takes key=value, as in partition=gpu: got '=gpu'"),
        ({"workers": -2}, "--workers must be a positive number: got -2"),
        ({"grid": ["training.lrr=1,2"]}, "did you mean 'lr'?"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    with pytest.raises(ValueError, match=re.escape(said)):
        sweep(str(tmp_path / "swept.yaml"), out=tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("cores", "gpus", "own", "asked", "workers", "threads"),
    [
        (8, [], 1, None, 6, 1),  # no more than there are runs
        (4, [], 1, None, 4, 1),
        (8, [], 3, None, 2, 3),
        (2, [], 3, None, 1, 3),
        (8, [], None, None, 6, 1),
        (7, [], None, 2, 2, 3),
        (2, [], None, 5, 5, 1),
        (8, ["0", "3"], None, None, 2, 4),
        (8, ["0", "3"], 1, 5, 5, 1),
    ],
)
def test_how_many_workers_and_threads_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[str],
    own: int | None, asked: int | None, workers: int, threads: int,
) -> None:  # fmt: skip
    (tmp_path / "swept.yaml").write_text(SWEPT.replace("threads: 1", f"threads: {own or 'null'}"))
    plan = plan_sweep(str(tmp_path / "swept.yaml"), grid=["training.lr=1,2"], num_seeds=3)
    monkeypatch.setattr("grokscope.experiments.sweep.num_cores", lambda: cores)
    monkeypatch.setattr("grokscope.experiments.sweep.visible_gpus", lambda device: gpus)
    engine, given = sweep_command._engine("processes", asked, None, [], plan, tmp_path, "auto")
    assert isinstance(engine, ProcessEngine)
    assert (engine.workers, engine.gpus, given) == (workers, gpus, threads)


@pytest.mark.parametrize(("own", "threads"), [(None, 1), (3, 3)])
@pytest.mark.parametrize(("device", "gpus"), [("cuda", 1), ("cpu", 0), ("auto", 0)])
def test_what_a_cluster_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int | None, threads: int,
    device: str, gpus: int,
) -> None:  # fmt: skip
    (tmp_path / "swept.yaml").write_text(SWEPT.replace("threads: 1", f"threads: {own or 'null'}"))
    plan = plan_sweep(str(tmp_path / "swept.yaml"))
    ray, slurm = mock.Mock(), mock.Mock()
    monkeypatch.setitem(sys.modules, "grokscope.integrations.ray_engine", ray)
    monkeypatch.setitem(sys.modules, "grokscope.integrations.slurm_engine", slurm)
    engine, given = sweep_command._engine("ray", 4, "ray://x", [], plan, tmp_path, device)
    assert (engine, given) == (ray.RayEngine.return_value, threads)
    ray.RayEngine.assert_called_once_with(4, "ray://x", threads, gpus=gpus)
    options = ["timeout_min=240", "partition=gpu", "mem-gb=2.5", "gres=[a, b]"]
    engine, given = sweep_command._engine("slurm", None, None, options, plan, tmp_path, device)
    assert (engine, given) == (slurm.SlurmEngine.return_value, threads)
    read = {"timeout_min": 240, "slurm_partition": "gpu", "mem_gb": 2.5, "slurm_gres": ["a", "b"]}
    slurm.SlurmEngine.assert_called_once_with(tmp_path.resolve() / ".slurm", None, threads, read)


@pytest.mark.parametrize(
    ("engine", "address", "slurm", "name"),
    [
        (None, None, None, "processes"),
        (None, "auto", None, "ray"),
        (None, None, ["partition=x"], "slurm"),
        ("processes", None, None, "processes"),
        ("ray", None, None, "ray"),
        ("ray", "auto", None, "ray"),
        ("slurm", None, ["a=1"], "slurm"),
    ],
)
def test_an_option_of_an_engine_chooses_it(
    engine: str | None, address: str | None, slurm: list[str] | None, name: str
) -> None:
    assert sweep_command._engine_name(engine, address, slurm) == name


@pytest.mark.parametrize("failed", [(), (0, 2)])
def test_what_a_sweep_says_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    failed: tuple[int, ...],
) -> None:
    page = Path("/page" * 40)
    monkeypatch.setattr("grokscope.report.write_report", lambda *_: page)
    for name in ("report.print_sweep", "runs.SweepFolder"):
        monkeypatch.setattr(f"grokscope.{name}", mock.Mock())
    jobs = [Job(str(tmp_path.resolve() / "lr=1"), seed) for seed in range(3)]
    states = {job: RunState("failed" if job.seed in failed else "finished") for job in jobs}
    with nullcontext() if not failed else pytest.raises(typer.Exit) as ended:
        sweep_command._conclude(tmp_path, states, OUT, False)
    told = capsys.readouterr()
    assert told.out.splitlines() == ["", "", f"Report: {page}"]
    if failed:
        assert ended is not None
        assert ended.value.exit_code == 1
        assert "2 of 3 runs failed: lr=1/seed-0, lr=1/seed-2; the same" in told.err
    else:
        assert told.err == ""


def test_a_sweep_has_a_folder_of_its_name_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    monkeypatch.chdir(tmp_path)

    def interrupted(jobs: list[Job], *_: object) -> None:
        assert {job.run.parent for job in jobs} == {tmp_path / "sweeps" / "swept"}
        raise KeyboardInterrupt

    monkeypatch.setattr("grokscope.experiments.sweep.work_through", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep("swept.yaml", seeds=2)
    assert SweepFolder("sweeps/swept").content["seeds"] == [0, 1]


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "swept.yaml").write_text(SWEPT)
    done = grokscope(*COMMAND, "--workers", "0", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "grokscope: --workers must be a positive number: got 0\n"
    assert not (tmp_path / "sweep").exists()
