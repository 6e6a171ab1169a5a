"""A run's folder that disappears while it trains: noticed at the next write, nothing lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import grokscope as gs
from grokscope.runs import Run, RunDirectory, RunError

DATA = gs.load_data("digits", train_size=60, test_size=40)
SEEDS = [0, 1]
SPEC = {"name": "x", "arms": {"a": {}}, "seeds": SEEDS}


def train(
    run: RunDirectory, on_evaluation: Callable[..., None] | None = None, **more: Any
) -> list[Any]:
    return gs.fit_seeds(
        lambda seed: gs.MLP(64, [8, 6], 10, seed=seed),
        DATA,
        SEEDS,
        monitor=lambda model: gs.Monitor(
            model, (DATA.train_x[:6], DATA.train_y[:6]), ["weight_norm"], pictures=2
        ),
        batch_size=20,
        max_steps=30,
        evaluate=[4, 10, 20],
        checkpoint_seconds=0,
        device="cpu",
        out=[run.trial("a", seed) for seed in SEEDS],
        on_evaluation=on_evaluation,
        **more,
    )


@pytest.mark.parametrize(("seed", "step"), [(1, 10), (0, 10), (1, 20)])
def test_training_stops_with_its_rows_and_networks_beside_and_can_be_resumed(
    tmp_path: Path, seed: int, step: int
) -> None:
    with RunDirectory.create(tmp_path / "whole", SPEC, "cpu", SEEDS) as run:
        whole = train(run)

    def remove(of: int, row: dict[str, Any], seconds: float) -> None:
        if (of, row["step"]) == (seed, step):
            shutil.rmtree(tmp_path / "run")

    run = RunDirectory.create(tmp_path / "run", SPEC, "cpu", SEEDS)
    with pytest.raises(RunError, match=r"was removed or moved .* saved in .*run-rescued") as caught:
        train(run, remove)
    run.close("failed", str(caught.value))
    assert not (tmp_path / "run").exists()

    saved = Run(tmp_path / "run-rescued")
    assert saved.state == "interrupted"
    assert saved.spec == SPEC
    for of in SEEDS:
        rows, expected = (list(one.history("a", of)) for one in (saved, Run(tmp_path / "whole")))
        assert len(rows) >= sum(row["step"] <= step for row in expected)
        for ours, theirs in zip(rows, expected, strict=False):
            assert ours["test_accuracy"] == theirs["test_accuracy"]
            if ours["step"] < step:
                assert ours["weight_norm"] == theirs["weight_norm"]
    with RunDirectory.resume(tmp_path / "run-rescued", "cpu") as run:
        again = train(run)
    for ours, theirs in zip(again, whole, strict=True):
        for name, value in theirs.model.state_dict().items():
            assert torch.equal(ours.model.state_dict()[name], value), name
    assert saved.lenient().history("a", 0).steps.tolist()[-1] == 30


def test_a_training_that_was_over_is_over_in_what_is_saved(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "whole", SPEC, "cpu", SEEDS) as run:
        train(run)
    looked = [Run(tmp_path / "whole").history("a", seed) for seed in SEEDS]
    reached = [float(history["train_accuracy"][history.steps == 10][0]) for history in looked]
    over, left = (0, 1) if reached[0] > reached[1] else (1, 0)
    assert reached[over] > reached[left]
    stop = gs.Target("train_accuracy", reached[over])
    assert max(looked[left]["train_accuracy"][looked[left].steps <= 10]) < reached[over]

    def remove(of: int, row: dict[str, Any], seconds: float) -> None:
        if (of, row["step"]) == (left, 20):
            shutil.rmtree(tmp_path / "run")

    run = RunDirectory.create(tmp_path / "run", SPEC, "cpu", SEEDS)
    with pytest.raises(RunError, match="run-rescued"):
        train(run, remove, stop_at=stop)
    run.close("failed", "")
    with RunDirectory.resume(tmp_path / "run-rescued", "cpu") as run:
        state = run.trial("a", over).finished()
    assert state is not None
    assert state["step"] == 10


@pytest.mark.parametrize("left", [1, 0])
def test_a_training_that_is_over_needs_the_row_of_its_end(tmp_path: Path, left: int) -> None:
    with RunDirectory.create(tmp_path / "run", SPEC, "cpu", SEEDS) as run:
        train(run)
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    own = [row for row in rows if json.loads(row)["seed"] == 1]
    kept = own[:-1] if left else []
    (tmp_path / "run/metrics.jsonl").write_text("".join([r for r in rows if r not in own] + kept))
    said = r"metrics\.jsonl lacks rows of a, seed 1, which ended at step 30: put the whole"
    run = RunDirectory.resume(tmp_path / "run", "cpu")
    with run, pytest.raises(RunError, match=said):
        train(run)
    (tmp_path / "run/metrics.jsonl").write_text("".join(rows))
    with RunDirectory.resume(tmp_path / "run", "cpu") as run:
        assert [result.steps for result in train(run)] == [30, 30]


def test_where_nothing_can_be_written_beside_it_lies_among_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "run-rescued").write_text("in the way")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    run = RunDirectory.create(tmp_path / "run", SPEC, "cpu", SEEDS)
    with run.begin_beside() as saved:
        assert saved.path.parent == tmp_path / "temporary"
        assert Run(saved.path).spec == SPEC
    run.close("finished")
