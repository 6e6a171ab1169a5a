"""Options that name paths, and what they do not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.cli.app import run_app
from grokscope.report import write_report
from tests.report import made_up_runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "xor-robustness", "--out", ""], "--out is empty: name a path"),
        (["reproduce", "grokalign/fig7", "--out", ""], "--out is empty: name a path"),
        (["sweep", "xor-robustness", "--out="], "--out is empty: name a path"),
        (["report", "run", "--out", ""], "--out is empty: name a path"),
        (["report", "run", "--figures", ""], "--figures is empty: name a path"),
        (
            ["measure", "x", "--model", "mlp", "--data", "digits", "--out", ""],
            "--out is empty: name a path",
        ),
    ],
)
def test_an_empty_path_is_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where it would be written
    monkeypatch.setattr("sys.argv", ["grokscope", *arguments])
    assert run_app() == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_format_without_figures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["grokscope", "report", "run", "--format", "pdff"])
    with pytest.raises(ValueError, match="name a folder for them with --figures"):
        run_app()


def test_a_folder_whose_name_is_no_text_has_a_report(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run-\udcff", shape=None)
    assert "run-?" in write_report([path]).read_text()
