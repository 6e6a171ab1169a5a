"""The page on Table 1 in the paper's own setting, written from made-up trainings."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

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


def made_up(path: Path, seeds: list[int], unfinished: str = "") -> Run:
    spec = load_experiment("mnist-table1-published").model_dump(mode="json")
    spec |= {"seeds": seeds, "arms": {arm: spec["arms"][arm] for arm in REACHED}}
    with RunDirectory.create(path, spec, "cpu", seeds) as directory:
        for arm, reached in REACHED.items():
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
    arms, missing = script.collected([made_up(tmp_path / "run", [0, 1])])
    rows = script.measured(arms)
    assert list(rows["ce-grokalign"]["steps_speedup"].values) == [4, 4]
    assert list(rows["ce32-grokalign"]["steps_speedup"].values) == [2, 2]
    assert "steps_speedup" not in rows["ce-baseline"]
    assert rows["ce32-baseline"]["first_jump"][1]["step"] == 160
    assert len(missing) == 6
    text = script.page(rows, missing, [])
    assert "In float64 GrokAlign needs 4" in text
    assert "in float32 2" in text
    assert "at update 160" in text
    assert "| 400 | 100 |" in text  # updates and epochs of weight decay alone
    assert "| 4.0x | 7.56x | none |" in text


def test_unfinished_arms_are_named_and_right_censored(script: ModuleType, tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", [0], unfinished="ce32-grokalign")
    arms, missing = script.collected([run])
    assert not arms["ce32-grokalign"].finished
    assert "Cross-entropy in float32: GrokAlign (seed 0 was at 40 updates)" in missing
    rows = script.measured(arms)
    assert rows["ce32-grokalign"]["steps"] == {"values": [None], "at_least": [40.0]}
    text = script.page(rows, missing, [run])
    assert "**What was found.**" not in text
    assert "**So far.** Cross-entropy, float64: GrokAlign needs 4" in text
    assert "needs 400 updates in float64 and 200 in float32" in text
    assert "| Cross-entropy in float32: GrokAlign (not finished) | 0 | at least 40 |" in text
    script.draw(arms, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    record = {name: script.as_record(row) for name, row in rows.items()}
    assert json.loads(json.dumps(record))["ce-grokalign"]["steps_speedup"]["by_seed"] == [4.0]
