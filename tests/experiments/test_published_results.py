"""The page on Table 1 in the paper's own setting, written from made-up trainings."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grokscope.experiments import load_experiment
from grokscope.runs import History, Run, RunDirectory

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
REACHED = {"ce-baseline": 400, "ce-grokalign": 100, "ce32-baseline": 200, "ce32-grokalign": 100}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("published_results")


def history(reached: int, *, jumps: bool, last: int | None = None) -> History:
    """Training loss falls tenfold every 20 steps; accuracy passes 85 % at ``reached``."""
    rows = []
    for step in range(0, (reached if last is None else last) + 1, 20):
        loss = 10.0 ** (-step / 20)
        if jumps and step >= 160:
            loss = 5e-5 if step == 160 else 2e-5
        accuracy = 0.86 if step >= reached else 0.7
        rows.append({"step": step, "train_loss": loss, "test_accuracy": accuracy})
    return History(rows)


def made_up(path: Path, seeds: list[int], unfinished: str = "", factor: int = 1) -> Run:
    spec = load_experiment("mnist-table1-published").model_dump(mode="json")
    spec |= {"seeds": seeds, "arms": {arm: spec["arms"][arm] for arm in REACHED}}
    with RunDirectory.create(path, spec, "cpu", seeds) as directory:
        for arm, reached in ((arm, factor * steps) for arm, steps in REACHED.items()):
            for seed in seeds:
                trial = directory.trial(arm, seed)
                last = reached // 2 if arm == unfinished else None
                for row in history(reached, jumps=arm == "ce32-baseline", last=last):
                    trial.append(row, {"train_seconds": 0.01 * row["step"]})
                if arm != unfinished:
                    trial.finish(stopped="target", steps=reached, train_seconds=0.01 * reached)
    return Run(path)


def test_a_jump_is_a_hundred_times_the_lowest_loss(script: ModuleType) -> None:
    assert script.first_jump(history(400, jumps=False)) is None
    found = script.first_jump(history(400, jumps=True))
    assert found == {
        "step": 160,
        "before": 1e-7,
        "after": 5e-5,
        "accuracy_before": 0.7,
        "accuracy_after": 0.7,
    }
    for losses, at in (([1e-4, 9e-3, 1e-5], None), ([1e-4, 1.1e-2], 1), ([2e-3, 1.0], None)):
        rows = [
            {"step": step, "train_loss": loss, "test_accuracy": 0.5}
            for step, loss in enumerate(losses)
        ]
        jump = script.first_jump(History(rows))
        assert (None if jump is None else jump["step"]) == at, losses


def test_ratios_are_taken_within_a_precision(script: ModuleType, tmp_path: Path) -> None:
    arms, missing = script.joined({}, [made_up(tmp_path / "run", [0, 1])])
    ratios = script.speedups(arms)
    assert list(ratios["ce-grokalign"].values) == [4, 4]
    assert list(ratios["ce32-grokalign"].values) == [2, 2]
    assert "ce-baseline" not in ratios
    assert arms["ce32-baseline"].trials[1].first_jump["step"] == 160
    assert len(missing) == 6
    text = script.page(arms, missing, [])
    assert "In float64 GrokAlign needs 4" in text
    assert "in float32 2" in text
    assert "at update 160" in text
    assert "| 400 | 100 |" in text  # updates and epochs of weight decay alone
    assert "| 4.0x | 7.56x | none |" in text


def test_unfinished_arms_are_named_and_right_censored(script: ModuleType, tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", [0], unfinished="ce32-grokalign")
    arms, missing = script.joined({}, [run])
    assert not arms["ce32-grokalign"].finished
    assert "Cross-entropy in float32: GrokAlign (seed 0 was at 40 updates)" in missing
    trial = arms["ce32-grokalign"].trials[0]
    assert (trial.steps, trial.at_least) == (None, 40.0)
    text = script.page(arms, missing, [])
    assert "**What was found.**" not in text
    assert "**So far.** Cross-entropy, float64: GrokAlign needs 4" in text
    assert "needs 400 updates in float64 and 200 in float32" in text
    assert "| Cross-entropy in float32: GrokAlign (not finished) | 0 | at least 40 |" in text


def written(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *runs: Run) -> Any:
    """The record after the script was run once more."""
    paths = [str(run.path) for run in runs]
    monkeypatch.setattr(sys, "argv", ["published_results.py", *paths, "--folder", str(folder)])
    script.main()
    assert (folder / "table1-published.png").stat().st_size > 1000
    return json.loads((folder / "table1-published.json").read_text())


def test_trainings_join_what_is_recorded(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made_up(tmp_path / "whole", [0, 1])
    first = written(script, monkeypatch, tmp_path, whole)
    again = written(script, monkeypatch, tmp_path)
    assert again == first
    # an unfinished training takes no finished one's place, a finished one does; a seed is added
    other = made_up(tmp_path / "other", [1, 2], unfinished="ce-grokalign", factor=2)
    arms = written(script, monkeypatch, tmp_path, other)["arms"]
    steps = {name: {s: t["steps"] for s, t in arm["trials"].items()} for name, arm in arms.items()}
    assert steps["ce-grokalign"] == {"0": 100, "1": 100}
    assert steps["ce-baseline"] == {"0": 400, "1": 800, "2": 800}
    assert arms["ce-grokalign"]["steps_speedup"]["by_seed"] == [4, 8]
    entry = json.loads((tmp_path / "claims.json").read_text())["mnist-table1-published (paper)"]
    assert (entry["seeds"], entry["state"]) == ("2 to 3", "interrupted")
    states = {claim["says"]: claim["state"] for claim in entry["claims"]}
    assert Counter(states.values()) == {"not held": 2, "held": 1, "open": 7}
    held = "Cross-entropy, the baseline needs at least twice as many steps in float64 as in float32"
    assert states[held] == "held"
