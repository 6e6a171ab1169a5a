from __future__ import annotations

import math
from pathlib import Path

import pytest

from grokscope.findings.claims import SpeedUp, StepsTo
from grokscope.findings.summary import RunSummary, run_summary
from grokscope.runs import Run, RunDirectory
from tests.report import made_up_runs


def summary(path: Path) -> RunSummary:
    return run_summary(Run(path, lenient=True))


def by_hand(path: Path, rows: dict[tuple[str, int], list[tuple[int, float, float]]]) -> Path:
    """A run whose rows are (step, train accuracy, test accuracy), ten steps a second."""
    seeds = sorted({seed for _, seed in rows})
    with RunDirectory.create(path, made_up_runs.spec(seeds=seeds), "cpu", seeds) as run:
        for (arm, seed), figures in rows.items():
            trial = run.trial(arm, seed)
            for step, train, test in figures:
                row = {"step": step, "train_accuracy": train, "test_accuracy": test}
                trial.append(row, {"train_seconds": step / 10, "total_seconds": step / 5})
            made_up_runs.finish(trial, figures[-1][0])
    return path


def test_milestones_delay_and_speed_up_of_rows_written_by_hand(tmp_path: Path) -> None:
    path = by_hand(
        tmp_path / "run",
        {
            ("baseline", 0): [(0, 0.1, 0.1), (10, 0.99, 0.4), (100, 1.0, 0.6), (1000, 1.0, 0.92)],
            ("grokalign", 0): [(0, 0.1, 0.1), (20, 0.995, 0.5), (250, 1.0, 0.9)],
        },
    )
    baseline, ours = summary(path).arms
    assert baseline.milestones["memorized"]["steps"].values == (10,)
    assert baseline.milestones["generalized"]["steps"].values == (1000,)
    assert baseline.milestones["generalized"]["seconds"].values == (100,)
    assert baseline.delay is not None
    assert baseline.delay["steps"].values == (990,)
    assert baseline.delay["seconds"].values == (99,)
    assert baseline.speed_up == {}
    assert ours.speed_up["steps"].values == (4.0,)
    assert ours.speed_up["seconds"].values == (4.0,)
    assert ours.speed_up["steps"].median.is_exact
    assert ours.final["test_accuracy"].values == (0.9,)
    assert ours.state == "finished"


def test_speed_up_and_steps_agree_with_the_claims_of_the_run(runs: Path) -> None:
    for name in ("finished", "three-seeds", "never"):
        run = Run(runs / name)
        ours = run_summary(run).arm("grokalign")
        claimed = SpeedUp(kind="speed_up", arm="grokalign", target=0.9).seed_values(run)
        assert claimed is not None
        assert ours.speed_up["steps"] == claimed
        steps = StepsTo(kind="steps_to", arm="grokalign", target=0.9).seed_values(run)
        assert steps is not None
        assert ours.milestones["generalized"]["steps"] == steps


def test_several_seeds_give_a_median_and_a_range(runs: Path) -> None:
    steps = summary(runs / "three-seeds").arm("baseline").milestones["generalized"]["steps"]
    assert len(steps.values) == 3
    assert min(steps.known) < max(steps.known)
    assert steps.median.value == sorted(steps.known)[1]


def test_median_counts_a_seed_that_never_got_there_as_later_than_any(tmp_path: Path) -> None:
    rows = [(0, 0.1, 0.1), (10, 1.0, 0.4)]
    path = by_hand(
        tmp_path / "run",
        {
            ("baseline", 0): [*rows, (500, 1.0, 0.95)],
            ("baseline", 1): [*rows, (2000, 1.0, 0.6)],
            ("baseline", 2): [*rows, (3000, 1.0, 0.7)],
            ("grokalign", 0): [*rows, (50, 1.0, 0.95)],
            ("grokalign", 1): [*rows, (60, 1.0, 0.95)],
        },
    )
    found = summary(path)
    steps = found.arm("baseline").milestones["generalized"]["steps"]
    assert steps.values == (500, None, None)
    assert steps.median == (2000, math.inf)
    speed_up = found.arm("grokalign").speed_up["steps"]
    assert not speed_up.median.is_bounded
    assert speed_up.lows == (10, pytest.approx(2000 / 60))


def test_a_seed_of_the_arm_that_never_got_there_leaves_no_speed_up(tmp_path: Path) -> None:
    good, bad = [(0, 0.1, 0.1), (10, 1.0, 0.95)], [(0, 0.1, 0.1), (10, 1.0, 0.4)]
    path = by_hand(tmp_path / "run", {("baseline", 0): good, ("grokalign", 0): bad})
    assert summary(path).arm("grokalign").speed_up == {}


def test_a_baseline_stopped_before_the_arm_generalized_bounds_nothing(tmp_path: Path) -> None:
    slow, fast = [(0, 0.1, 0.1), (40, 1.0, 0.4)], [(0, 0.1, 0.1), (50, 1.0, 0.95)]
    path = by_hand(tmp_path / "run", {("baseline", 0): slow, ("grokalign", 0): fast})
    assert summary(path).arm("grokalign").speed_up == {}


def test_a_run_recorded_with_the_names_of_before_is_summarized_alike(tmp_path: Path) -> None:
    table = {"kind": "table", "title": "T", "results": "rows", "columns": ["memorized"]}
    value = {"kind": "value", "arm": "grokalign", "metric": "test_accuracy", "at": "memorized"}
    claims = [{"says": "low", "quantity": value, "at_most": 0.5}]
    now, before = (
        made_up_runs.grokking(tmp_path / name, shape=None, claims=claims, panels=[table])
        for name in ("now", "before")
    )
    for path in (now, before):
        (path / "results.json").write_text('{"rows": [{"memorized": 3, "generalized": 5}]}')
    for name in ("spec.yaml", "results.json"):
        text = (before / name).read_text()
        (before / name).write_text(text.replace("ized", "ised"))
    assert (before / "spec.yaml").read_text() != (now / "spec.yaml").read_text()
    assert summary(before) == summary(now)
    assert summary(before).verdicts[0].state == "held"
    assert summary(before).arm("grokalign").speed_up
    assert Run(before).results == Run(now).results
    assert Run(before).spec["panels"] == Run(now).spec["panels"]


def test_generalizing_before_memorizing_is_no_delay(tmp_path: Path) -> None:
    rows = [(0, 0.1, 0.1), (10, 0.95, 0.92), (20, 1.0, 0.95)]
    arm = summary(by_hand(tmp_path / "run", {("baseline", 0): rows})).arm("baseline")
    assert arm.delay is not None
    assert arm.delay["steps"].values == (0,)


def test_without_memorizing_there_is_no_delay_to_speak_of(tmp_path: Path) -> None:
    rows = [(0, 0.1, 0.1), (10, 0.5, 0.4)]
    arm = summary(by_hand(tmp_path / "run", {("baseline", 0): rows})).arm("baseline")
    assert arm.delay is None
    assert arm.milestones["memorized"]["steps"].median.value is None


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("finished", ["finished", "finished"]),
        ("killed", ["killed", "not started"]),
        ("started", ["not started", "not started"]),
    ],
)
def test_state_of_each_arm(runs: Path, name: str, states: list[str]) -> None:
    assert [arm.state for arm in summary(runs / name).arms] == states


def test_a_diverged_training_says_so(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0]) as run:
        trial = run.trial("baseline", 0)
        trial.append({"step": 0, "train_loss": math.nan}, {"train_seconds": 0.0})
        made_up_runs.finish(trial, 0, "diverged")
    assert summary(tmp_path / "run").arm("baseline").state == "diverged"


def test_times_that_were_not_recorded_are_unknown_and_harm_nothing(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    (path / "timing.jsonl").unlink()
    ours = summary(path).arm("grokalign")
    assert ours.milestones["generalized"]["steps"].median.value == 1212
    seconds = ours.milestones["generalized"]["seconds"].median
    assert math.isnan(seconds.low)
    assert set(ours.speed_up) == {"steps"}


def test_the_baseline_is_the_arm_of_that_name_or_else_the_first(tmp_path: Path) -> None:
    arms = made_up_runs.spec()["arms"]
    path = made_up_runs.started(tmp_path / "a", arms=dict(reversed(arms.items())))
    assert summary(path).baseline == "baseline"
    renamed = {"slow": arms["baseline"], "fast": arms["grokalign"]}
    assert summary(made_up_runs.started(tmp_path / "b", arms=renamed)).baseline == "slow"
