"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from grokscope.cli.reproduce import reproduce
from tests.cli.running import EXPERIMENT, grokscope


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A folder in which a small experiment was run, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(EXPERIMENT)
    return folder, grokscope("run", "small.yaml", folder=folder)


def test_run_trains_reports_and_prints_a_table_of_80_columns(finished) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = folder / "runs" / "small"
    assert (run / "report.html").stat().st_size > 1_000_000
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "report.html" in done.stdout
    assert "GrokAlign" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80


def test_a_table_of_several_experiments_is_reproduced_in_a_folder_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[tuple[str, Path | None]] = []

    def noted(experiment: str, *others: Any) -> None:
        called.append((experiment, others[3]))

    monkeypatch.setattr("grokscope.cli.reproduce.run", noted)
    reproduce("grokalign/table1", out=tmp_path)
    reproduce("grokalign/fig7", out=tmp_path)
    reproduce("grokalign/table1")
    pair = ["mnist-table1", "mnist-table1-mse"]
    assert called[:2] == [(name, tmp_path / name) for name in pair]
    assert called[2] == ("mnist-constrain", tmp_path)
    assert called[3:] == [(name, None) for name in pair]


def test_a_second_run_takes_the_next_free_folder(finished) -> None:
    folder, _ = finished
    settings = ["--set", "training.max_steps=5", "--set", "arms={baseline: {}}"]
    assert grokscope("run", "small.yaml", *settings, folder=folder).returncode == 0
    assert (folder / "runs" / "small-2" / "report.html").exists()


def test_a_finished_run_resumes_to_itself(finished) -> None:
    folder, _ = finished
    before = (folder / "runs/small/metrics.jsonl").read_bytes()
    done = grokscope("run", "small.yaml", "--out", "runs/small", "--resume", folder=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/small/metrics.jsonl").read_bytes() == before


def test_report_and_compare_read_what_run_wrote(finished) -> None:
    folder, _ = finished
    assert grokscope("report", "runs/small", "--out", "page.html", folder=folder).returncode == 0
    assert (folder / "page.html").exists()
    shown = grokscope("compare", "runs/small", "runs/small", folder=folder)
    assert shown.returncode == 0
    assert "Weight decay alone" in shown.stdout
    data = grokscope("compare", "runs/small", "--json", folder=folder)
    assert json.loads(data.stdout)


def test_list_shows_every_experiment(tmp_path: Path) -> None:
    shown = grokscope("list", folder=tmp_path)
    assert shown.returncode == 0
    assert "digits-grokking" in shown.stdout
    assert "grokalign/fig7" in " ".join(shown.stdout.split())


def test_data_lists_and_verifies(tmp_path: Path) -> None:
    assert "digits" in grokscope("data", folder=tmp_path).stdout
    assert grokscope("data", "digits", folder=tmp_path).returncode == 0


def test_version_and_help(tmp_path: Path) -> None:
    assert grokscope("--version", folder=tmp_path).stdout.startswith("grokscope 0.")
    shown = grokscope("run", "--help", folder=tmp_path).stdout
    assert "--preset" in shown
    assert "--resume" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "digits-groking"], "did you mean 'digits-grokking'"),
        (["run", "gone.yaml"], "cannot read gone.yaml"),
        (["run", "digits-grokking", "--set", "training.lrr=1"], "did you mean 'lr'"),
        (["run", "digits-grokking", "--seeds", "none"], "--seeds"),
        (["run", "digits-grokking", "--presett", "quick"], "No such option"),
        (["run", "digits-grokking", "--device", "gpu"], "device must be"),
        (["run", "mnist-grokking", "--data-dir", "."], "mnist"),
        (["run", "digits-grokking", "--resume", "--out", "gone"], "gone"),
        (["report", "gone"], "gone is no folder"),
        (["compare", "."], "holds no run"),
        (["data", "mnits"], "did you mean 'mnist'"),
        (["reproduce", "grokalign/fig77"], "did you mean 'grokalign/fig7'"),
        (["rnu", "digits-grokking"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = grokscope(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
