from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grokscope.report.comparison import summary_table
from grokscope.report.finding import finding, time_sentences
from grokscope.runs import RunDirectory
from tests.report import made_up_runs
from tests.report.test_summary import by_hand, summary

BEGIN, LAST = (0, 0.1, 0.1), (9000, 1.0, 0.5)


def headline(path: Path) -> str:
    return finding(summary(path)).headline


def two_arms(path: Path, baseline: int | None, ours: int | None, last: int = 9000) -> Path:
    """Two arms that generalize at these steps, or not until ``last``."""
    return by_hand(
        path,
        {
            (arm, 0): [BEGIN, (5, 1.0, 0.5), (last, 1.0, 0.5) if step is None else (step, 1.0, 0.9)]
            for arm, step in (("baseline", baseline), ("grokalign", ours))
        },
    )


@pytest.mark.parametrize(
    ("baseline", "ours", "expected"),
    [
        (8800, 800, "GrokAlign generalized in 11× fewer steps: 800 instead of 8,800"),
        (400, 800, "GrokAlign generalized in 2.0× more steps: 800 instead of 400"),
        (
            810,
            800,
            "GrokAlign generalized in about as many steps as Weight decay alone: 800 and 810",
        ),
        (
            None,
            800,
            "GrokAlign generalized after 800 steps; Weight decay alone did not within 9,000 steps",
        ),
        (
            800,
            None,
            "GrokAlign did not generalize within 9,000 steps; Weight decay alone did after 800",
        ),
        (
            None,
            None,
            "Neither of Weight decay alone and GrokAlign generalized within 9,000 steps",
        ),
    ],
)
def test_headline_says_what_happened(
    tmp_path: Path, baseline: int | None, ours: int | None, expected: str
) -> None:
    assert headline(two_arms(tmp_path / "run", baseline, ours)) == expected


def test_of_two_limits_the_lower_is_told(tmp_path: Path) -> None:
    ends = {("baseline", 0): 9000, ("grokalign", 0): 7000}
    rows = {trial: [BEGIN, (5, 1.0, 0.5), (last, 1.0, 0.5)] for trial, last in ends.items()}
    assert headline(by_hand(tmp_path / "run", rows)) == (
        "Neither of Weight decay alone and GrokAlign generalized within 7,000 steps"
    )


@pytest.mark.parametrize(
    ("baseline", "ours", "expected"),
    [
        (
            [100, None],
            [50, 60],
            "GrokAlign generalized after 55 steps; Weight decay alone generalized with 1 of 2 "
            "seeds within 9,000 steps",
        ),
        (
            [100, 200],
            [50, None],
            "GrokAlign generalized with 1 of 2 seeds within 9,000 steps; Weight decay alone did "
            "after 150",
        ),
        (
            [100, None],
            [50, None],
            "Weight decay alone generalized with 1 of 2 seeds within 9,000 steps. "
            "GrokAlign generalized with 1 of 2 seeds within 9,000 steps",
        ),
        (
            [100, None, None],
            [None, None, None],
            "Weight decay alone generalized with 1 of 3 seeds within 9,000 steps. "
            "GrokAlign did not generalize within 9,000 steps",
        ),
    ],
)
def test_of_a_condition_some_of_whose_seeds_generalized_it_is_not_said_that_it_did_not(
    tmp_path: Path, baseline: list[int | None], ours: list[int | None], expected: str
) -> None:
    path = by_hand(
        tmp_path / "run",
        {
            (arm, seed): [BEGIN, (5, 1.0, 0.5), *([(step, 1.0, 0.9)] if step else []), LAST]
            for arm, steps in (("baseline", baseline), ("grokalign", ours))
            for seed, step in enumerate(steps)
        },
    )
    found = finding(summary(path))
    assert ". ".join([found.headline, *found.further]) == expected


@pytest.mark.parametrize(
    ("ours", "steps", "seconds"),
    [
        ([50, 250, 400], "2.0× fewer steps: 250 instead of 500", "25.0 s instead of 50.0 s: "),
        (
            [200, 700, 150],
            "1.4× more steps, by the median of ratios seed by seed; the medians are 200 and 500",
            "1.4× more, by the median of ratios seed by seed; the medians are 20.0 s and 50.0 s",
        ),
        (
            [105, 2000, 800],
            "about as many steps as Weight decay alone, by the median",
            "about as much, by the median",
        ),
    ],
)
def test_medians_that_do_not_go_with_the_ratio_of_seeds_are_told_as_such(
    tmp_path: Path, ours: list[int], steps: str, seconds: str
) -> None:
    rows = {
        (arm, seed): [BEGIN, (5, 1.0, 0.5), (step, 1.0, 0.9)]
        for arm, of in (("baseline", [100, 500, 1000]), ("grokalign", ours))
        for seed, step in enumerate(of)
    }
    of_run = summary(by_hand(tmp_path / "run", rows))
    assert finding(of_run).headline.startswith(f"GrokAlign generalized in {steps}")
    assert time_sentences(of_run)[0].startswith(f"In training time, GrokAlign took {seconds}")


@pytest.mark.parametrize(
    ("memorized", "delay"),
    [
        (150, "8,650 after it had memorized"),
        (8799, "1 after it had memorized"),
        (8800, "without delay"),
    ],
)
def test_headline_of_one_arm_tells_its_delay(tmp_path: Path, memorized: int, delay: str) -> None:
    rows = [BEGIN, (memorized, 0.99, 0.4), (8800, 1.0, 0.91)][: 2 + (memorized < 8800)]
    rows[-1] = (8800, 1.0, 0.91)
    arms = {"baseline": made_up_runs.spec()["arms"]["baseline"]}
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(arms=arms), "cpu", [0]) as run:
        trial = run.trial("baseline", 0)
        for step, train, test in rows:
            row = {"step": step, "train_accuracy": train, "test_accuracy": test}
            trial.append(row, {"train_seconds": 0.0})
        made_up_runs.finish(trial, 8800)
    assert headline(tmp_path / "run") == (
        f"Weight decay alone generalized after 8,800 steps, {delay}"
    )


def test_an_unfinished_run_is_told_as_unfinished(runs: Path) -> None:
    assert headline(runs / "killed") == "Weight decay alone has not generalized yet, at step 500"
    assert headline(runs / "started") == (
        "Grokking on real handwritten digits: nothing has been measured yet"
    )


def test_a_third_arm_has_its_own_sentence_and_the_soonest_comes_first(tmp_path: Path) -> None:
    arms: dict[str, Any] = made_up_runs.spec()["arms"]
    arms["held"] = {"title": "Norm held at 5", "methods": []}
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(arms=arms), "cpu", [0]) as run:
        for arm, step, test in (
            ("baseline", 8000, 0.9),
            ("held", 9000, 0.5),
            ("grokalign", 800, 0.9),
        ):
            trial = run.trial(arm, 0)
            for at, train, accuracy in (BEGIN, (step, 1.0, test)):
                row = {"step": at, "train_accuracy": train, "test_accuracy": accuracy}
                trial.append(row, {"train_seconds": float(at)})
            made_up_runs.finish(trial, step)
    found = finding(summary(tmp_path / "run"))
    assert found.headline.startswith("GrokAlign generalized in 10× fewer steps")
    assert found.further == [
        "Norm held at 5 did not generalize within 9,000 steps; Weight decay alone did after 8,000"
    ]


def test_without_milestones_the_last_figures_are_told(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None, milestones={}, claims=[])
    assert headline(path).startswith("Weight decay alone after 20,000 steps: train accuracy 100")
    assert summary_table(summary(path))[0] == ["", "final test accuracy"]


def test_what_an_analysis_found_is_the_finding(tmp_path: Path) -> None:
    path = two_arms(tmp_path / "run", 8800, 800)
    with RunDirectory.resume(path, "cpu") as run:
        run.write_results({"finding": "The kernel grew", "growth": 2.0})
    assert headline(path) == "The kernel grew"
    assert finding(summary(path)).further == []


def test_time_is_told_apart_from_steps(runs: Path) -> None:
    (sentence,) = time_sentences(summary(runs / "finished"))
    assert sentence == ("In training time, GrokAlign took 3.4 s instead of 33.9 s: 10× less")


def test_of_many_arms_the_first_is_told_and_the_table_has_the_rest(tmp_path: Path) -> None:
    steps = {"baseline": 8000, "a": 4000, "b": 400, "c": 2000, "d": 1000, "e": 800}
    run = {"name": "many", "milestones": made_up_runs.spec()["milestones"]}
    arms = {arm: {"title": arm.upper()} for arm in steps}
    with RunDirectory.create(tmp_path / "run", {**run, "arms": arms}, "cpu", [0]) as writer:
        for arm, step in steps.items():
            trial = writer.trial(arm, 0)
            for at, train, test in (BEGIN, (step, 1.0, 0.9)):
                row = {"step": at, "train_accuracy": train, "test_accuracy": test}
                trial.append(row, {"train_seconds": at / 100})
            made_up_runs.finish(trial, step)
    found = finding(summary(tmp_path / "run"))
    assert found.headline == "B generalized in 20× fewer steps: 400 instead of 8,000"
    assert found.further == ["The table has the other 4 conditions"]
    (sentence,) = time_sentences(summary(tmp_path / "run"))
    assert sentence.startswith("In training time, B took 4.0 s instead of 80.0 s")


def test_milestones_are_explained_in_words(runs: Path) -> None:
    assert finding(summary(runs / "finished")).meaning == (
        "Memorized: train accuracy has reached 99 %. Generalized: test accuracy has reached 90 %. "
        "Delay: from the one to the other"
    )
