from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grokscope.findings.summary import run_summary
from grokscope.runs import Run, RunError, open_runs
from tests.report import made_up_runs


def change(path: Path, name: str, text: str) -> None:
    (path / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: change(p, "spec.yaml", "- a list"), "not a mapping"),
        (lambda p: change(p, "spec.yaml", ""), "not a mapping"),
        (lambda p: change(p, "spec.yaml", "arms: [baseline]"), "arms is not a mapping"),
        (lambda p: change(p, "spec.yaml", "arms: {a: 3}"), "arms.a is not a mapping"),
        (lambda p: change(p, "spec.yaml", "arms: {a: {methods: 5}}"), "a.methods is not a list"),
        (
            lambda p: change(p, "spec.yaml", "milestones: {early: {metric: loss, target: low}}"),
            "milestones.early needs a metric and a target",
        ),
        (lambda p: change(p, "spec.yaml", "panels: curves"), "panels is not a list"),
        (lambda p: change(p, "spec.yaml", "{unclosed"), "not valid YAML"),
        (lambda p: (p / "spec.yaml").write_bytes(b"\xff\xfe\x00"), "spec.yaml"),
        (lambda p: change(p, "metrics.jsonl", "nonsense\n"), "line 1 is not a JSON object"),
        (lambda p: change(p, "metrics.jsonl", '{"step": 1}\n'), "metrics.jsonl"),
        (lambda p: change(p, "metrics.jsonl", '{"arm": "a", "seed": 0}\n'), "metrics.jsonl"),
        (lambda p: change(p, "metrics.jsonl", "3\n"), "metrics.jsonl"),
        (lambda p: (p / "metrics.jsonl").write_bytes(b"\xff\xfe\n"), "metrics.jsonl"),
        (lambda p: change(p, "timing.jsonl", '{"arm": "baseline"}\n'), "timing.jsonl"),
        (lambda p: (p / "spec.yaml").unlink(), "holds no run"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    damage(path)
    with pytest.raises(RunError, match=message) as caught:
        run_summary(Run(path, lenient=True))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["env.json", "status.json", "results.json"])
@pytest.mark.parametrize("content", [None, "{torn", "[]", "{}"])
def test_a_damaged_side_file_is_noted_and_the_rest_is_shown(
    tmp_path: Path, name: str, content: str | None
) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    if content is None:
        (path / name).unlink(missing_ok=True)
    else:
        change(path, name, content)
    run = Run(path, lenient=True)
    assert len(run.histories) == 2
    harmless = content == "{}" or (name == "results.json" and content is None)
    assert any(name in problem for problem in run_summary(run).problems) == (not harmless)
    if name == "status.json":
        assert run.state == "unknown"
    if not harmless:
        with pytest.raises(RunError, match=name):
            getattr(Run(path), name.removesuffix(".json"))


def test_claims_that_cannot_be_read_are_noted(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None, claims=[{"says": "nothing"}])
    summary = run_summary(Run(path))
    assert summary.verdicts == []
    assert any("claims" in problem for problem in summary.problems)


def test_a_killed_run_is_read_up_to_its_torn_line(runs: Path) -> None:
    run = Run(runs / "killed")
    assert run.state == "killed"
    assert run.history("baseline", 0).steps[-1] == 500


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = made_up_runs.killed(tmp_path / "run")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    run_summary(Run(path))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_folders_that_end_alike_are_told_apart_further_up(tmp_path: Path) -> None:
    paths = [made_up_runs.started(tmp_path / part / "run") for part in ("a", "b")]
    assert [run.name for run in open_runs(paths)] == ["a/run", "b/run"]
