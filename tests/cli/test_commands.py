"""The commands as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from grokscope.cli.console import OUT
from grokscope.cli.data import data
from grokscope.cli.listing import list_experiments
from grokscope.cli.report import report
from grokscope.cli.reproduce import reproduce
from grokscope.cli.run import default_folder, train_and_report
from grokscope.data import DATASETS
from grokscope.experiments import reproducible, shipped
from tests.cli.running import EXPERIMENT, environment, grokscope


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

    def noted(experiment: str, *others: Any) -> tuple[None, None]:
        called.append((experiment, others[3]))
        return None, None

    monkeypatch.setattr("grokscope.cli.reproduce.train_and_report", noted)
    reproduce("grokalign/table1", out=tmp_path)
    reproduce("grokalign/fig3", out=tmp_path)
    reproduce("grokalign/table1")
    several = reproducible()["grokalign/table1"]
    assert {"mnist-table1", "mnist-table1-mse"} <= set(several)
    assert called == [
        *((name, tmp_path / name) for name in several),
        ("mnist-feature-learning", tmp_path),
        *((name, None) for name in several),
    ]


@pytest.mark.parametrize(("resume", "there"), [(False, False), (True, False), (True, True)])
def test_what_run_says_before_and_after(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    resume: bool,
    there: bool,
) -> None:
    page = Path("/page" * 40)
    for name in ("experiments.run_experiment", "report.print_summary"):
        monkeypatch.setattr(f"grokscope.{name}", mock.Mock())
    monkeypatch.setattr("grokscope.report.write_report", lambda *_: page)
    (tmp_path / "spec.yaml").touch() if there else None
    train_and_report("digits-grokking", "quick", 3, None, tmp_path, resume, None, "cpu", False)
    told = capsys.readouterr().out
    assert told.splitlines()[1].startswith("2 condition(s) x 3 seed(s), preset quick, into ")
    begun = "to go on with: it starts now." in " ".join(told.split())
    assert begun == (resume and not there)
    assert told.splitlines()[-1] == f"Report: {page}"


def test_a_second_run_takes_the_next_free_folder(finished) -> None:
    folder, _ = finished
    settings = ["--set", "training.max_steps=5", "--set", "arms={baseline: {}}"]
    assert grokscope("run", "small.yaml", *settings, folder=folder).returncode == 0
    assert (folder / "runs" / "small-2" / "report.html").exists()


def test_the_folder_is_the_next_free_one_and_to_resume_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [Path("runs/small"), Path("runs/small-2"), Path("runs/small-3")]
    assert default_folder("small", resume=False) == default_folder("small", resume=True) == runs[0]
    for last, following in pairwise(runs):
        last.mkdir(parents=True)
        (last / "spec.yaml").touch()
        assert default_folder("small", resume=False) == following
        assert default_folder("small", resume=True) == last


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
    told = grokscope("compare", "runs/small", "--json", folder=folder)
    assert json.loads(told.stdout)


def test_list_shows_every_experiment_in_a_line_under_its_paper(tmp_path: Path) -> None:
    shown = grokscope("list", folder=tmp_path)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "grokalign/fig7" in " ".join(shown.stdout.split())
    starts = [line.split()[0] if line.startswith("  ") else line for line in lines]
    for name in shipped():
        assert starts.count(name) == 1
    paper = lines.index("GrokAlign (Walker et al. 2025)")
    assert starts[paper + 1 : paper + 6] == [
        "mnist-regions",
        "mnist-regions-published",
        "mnist-jacobian-rank",
        "mnist-alignment-published",
        "mnist-feature-learning",
    ]  # Figures 1, 2 and 3
    wide = grokscope("list", folder=tmp_path, COLUMNS="150").stdout
    assert "Do Jacobians become rank one?" in wide
    assert "grokalign-figures" in wide


@pytest.mark.parametrize(("width", "column"), [(109, "docs"), (110, "results")])
def test_a_wide_terminal_has_the_pages_of_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, column: str
) -> None:
    monkeypatch.setattr(OUT, "_width", width)
    list_experiments()
    head = capsys.readouterr().out.splitlines()[0]
    assert head.split()[-2:] == [column, "title"]
    assert head.startswith("experiment ")


def test_the_path_of_a_file_stays_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("/there" * 40)
    monkeypatch.setattr(OUT, "_width", 80)
    monkeypatch.setattr("grokscope.data.fetch", lambda name, *_: [file] * (name == "mnist"))
    data(["mnist", "digits"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"mnist: {file}"
    assert second == f"digits: needs no file; {DATASETS['digits'].description}"
    data()
    lines = capsys.readouterr().out.splitlines()
    assert re.match("name {2,}what *$", lines[0])
    assert {line.split()[0] for line in lines if line[0] != " "} == {"name", *DATASETS}
    page = Path("/page" * 40)
    monkeypatch.setattr("grokscope.report.write_report", lambda *_: page)
    monkeypatch.setattr("grokscope.report.write_figures", lambda *_: [file, file])
    report([page], figures=page)
    assert capsys.readouterr().out.splitlines() == [f"Report: {page}", f"Figures: 2 in {page}"]
    report([page, file], figures=Path("plots"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"report": str(page), "figures": [str(file)] * 4}


def test_results_that_list_names_are_pages_on_the_experiment(tmp_path: Path) -> None:
    listed = json.loads(grokscope("list", "--json", folder=tmp_path).stdout)
    assert {entry["name"] for entry in listed} == set(shipped())
    root = Path(__file__).resolve().parents[2]
    recorded = [entry for entry in listed if entry["recorded"]]
    assert len(recorded) > 10
    for entry in recorded:
        page = (root / entry["recorded"]).read_text()
        named = [entry["name"], *entry["reproduces"], *entry["source"].split(", ")[1:]]
        assert any(name in page for name in named), entry["name"]


def test_json_of_a_run_has_its_claims_and_nothing_else_is_on_stdout(finished) -> None:
    folder, _ = finished
    resumed = ["run", "small.yaml", "--out", "runs/small", "--resume", "--json", "--check"]
    done = grokscope(*resumed, folder=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (folder / found["report"]).exists()
    assert found["state"] == "finished"
    (claim,) = found["claims"]
    assert claim["says"] == "Learns its training images"
    assert claim["state"] == "held"
    assert [condition["arm"] for condition in found["conditions"]] == ["baseline", "grokalign"]
    assert "A small experiment" in done.stderr


def test_check_exits_with_1_where_a_claim_does_not_hold(finished) -> None:
    folder, _ = finished
    text = EXPERIMENT.replace("at_least: 0.9", "at_least: 1.1").replace(
        "max_steps: 400", "max_steps: 5"
    )
    (folder / "wrong.yaml").write_text(text)
    done = grokscope("run", "wrong.yaml", "--out", "runs/wrong", "--check", folder=folder)
    assert done.returncode == 1
    assert "1 of 1 claims did not hold: Learns its training images (not held)" in done.stderr
    assert "not held" in done.stdout
    unchecked = ["run", "wrong.yaml", "--out", "runs/wrong", "--resume"]
    assert grokscope(*unchecked, folder=folder).returncode == 0


def test_report_and_data_as_json(finished) -> None:
    folder, _ = finished
    options = ["--figures", "figures", "--format", "csv", "--json"]
    found = json.loads(grokscope("report", "runs/small", *options, folder=folder).stdout)
    assert (folder / found["report"]).exists()
    assert all((folder / name).suffix == ".csv" for name in found["figures"])
    assert "figures/accuracy.csv" in found["figures"]
    listed = json.loads(grokscope("data", "--json", folder=folder).stdout)
    assert "digits" in [entry["name"] for entry in listed]
    (digits,) = json.loads(grokscope("data", "digits", "--json", folder=folder).stdout)
    assert digits["files"] == []


def test_shells_complete_commands_experiments_and_figures(tmp_path: Path) -> None:
    asked = {"_GROKSCOPE_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for words, expected in (
        ("grokscope run mnist-regions-", ["mnist-regions-published", "mnist-regions-slices"]),
        ("grokscope sweep mnist-table2", ["mnist-table2", "mnist-table2-published"]),
        ("grokscope reproduce grokalign/t", ["grokalign/table1", "grokalign/table2"]),
    ):
        code = "import sys; sys.argv = ['grokscope']; from grokscope.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(COMP_WORDS=words, **asked),
            capture_output=True,
            text=True,
        )
        assert [line for line in done.stdout.splitlines() if line in expected] == expected


def test_data_lists_and_verifies(tmp_path: Path) -> None:
    listed = grokscope("data", folder=tmp_path).stdout
    assert listed.splitlines()[0].split() == ["name", "what"]
    assert "digits" in listed
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
