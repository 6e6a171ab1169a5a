"""Sweeps on disk: widened, refused, and read as one run for each setting."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from io import StringIO
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from rich.console import Console

from grokscope.findings import Claim, judge
from grokscope.report import print_sweep, write_report
from grokscope.runs import Run, RunDirectory, RunError, SeedRuns, open_runs
from grokscope.runs.sweep_folder import (
    SweepFolder,
    claim,
    is_claimed,
    is_finished,
    write_sweep,
)

SPEC = {"name": "x", "arms": {"a": {}}, "seeds": [0]}


def write(
    path: Path,
    settings: Sequence[str] = ("lr=1", "lr=2"),
    seeds: Sequence[int] = (0, 1),
    **changes: object,
) -> SweepFolder:
    experiments = {name: {**SPEC, "lr": name, **changes} for name in settings}
    return write_sweep(
        path, "x", {name: {"lr": name} for name in settings}, experiments, seeds, ["c"]
    )


def run(folder: Path, seed: int, figure: float, finish: bool = True) -> None:
    directory = RunDirectory.create(
        folder / f"seed-{seed}", {**SPEC, "seeds": [seed]}, "cpu", [seed]
    )
    trial = directory.trial("a", seed)
    trial.append({"step": 10, "loss": figure}, {"train_seconds": 1.0})
    trial.save_arrays("kept", {"x": torch.tensor([figure])})
    trial.save_checkpoint(10, {"w": torch.tensor([figure])}, keep=True, finished=True)
    directory.write_results({"figure": figure, "finding": f"It is {figure}"})
    if finish:
        trial.finish(stopped="max_steps")
    directory.close("finished" if finish else "interrupted")


def test_a_sweep_is_widened_by_seeds_and_settings(tmp_path: Path) -> None:
    write(tmp_path, ["lr=1"], [0, 1])
    sweep = write(tmp_path, ["lr=2"], [4])
    assert list(sweep.settings) == ["lr=1", "lr=2"]
    assert [one.spec["seeds"] for one in sweep.runs()] == [[0, 1, 4], [0, 1, 4]]
    assert [one.spec["lr"] for one in sweep.runs()] == ["lr=1", "lr=2"]


def test_a_setting_that_has_changed_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    write(tmp_path)
    before = (tmp_path / "lr=1/experiment.yaml").read_bytes()
    with pytest.raises(RunError, match=r"lr=1 is of another experiment \(it differs in: title\)"):
        write(tmp_path, title="other", seeds=[7])
    assert (tmp_path / "lr=1/experiment.yaml").read_bytes() == before


@pytest.mark.parametrize("file", ["metrics.jsonl", "timing.jsonl"])
def test_a_page_draws_the_seeds_that_are_whole_and_names_the_others(
    tmp_path: Path, file: str
) -> None:
    sweep = write(tmp_path)
    for setting in ("lr=1", "lr=2"):
        for seed in (0, 1):
            run(tmp_path / setting, seed, 1.0 + seed)
    damaged = tmp_path / "lr=1/seed-0" / file
    damaged.write_text("[[[\n[\n")
    one, other = open_runs([tmp_path], lenient=True)
    assert list(one.histories) == [("a", 1)]
    assert list(other.histories) == [("a", 0), ("a", 1)]
    assert one.state != "finished"
    assert other.state == "finished"
    assert [str(damaged) in problem for problem in one.problems] == [True]
    assert "seed 0 is left out" in write_report([tmp_path]).read_text("utf-8")
    console = Console(record=True, width=500, file=StringIO())
    print_sweep(sweep.runs(), console)
    assert "seed 0 is left out" in console.export_text()
    with pytest.raises(RunError, match=file):  # to read it strictly is an error as before
        _ = [at.histories for at in sweep.runs()[0].runs.values()]
    (tmp_path / "lr=1/seed-1" / file).write_text("[[[\n[\n")
    with pytest.raises(RunError, match=file):  # nothing of that setting is left to draw
        write_report([tmp_path])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 0, 1.0)
    with pytest.raises(RunError, match="holds a run, not a sweep"):
        write(tmp_path / "seed-0")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        write(tmp_path / "file")
    with pytest.raises(RunError, match=r"no sweep: there is no sweep\.json"):
        SweepFolder(tmp_path)
    with pytest.raises(RunError, match="no setting of a sweep"):
        SeedRuns(tmp_path)


def test_a_setting_reads_as_one_run_of_all_seeds(tmp_path: Path) -> None:
    sweep = write(tmp_path, [""], [3, 5])
    run(tmp_path, 3, 0.5)
    run(tmp_path, 5, 0.25)
    (one,) = open_runs([tmp_path])
    assert isinstance(one, Run)
    assert (one.arms, one.seeds("a")) == (["a"], [3, 5])
    assert one.history("a", 5)["loss"].tolist() == [0.25]
    assert one.history("a", 5)["train_seconds"].tolist() == [1.0]
    arrays, checkpoint = one.arrays("a", 5, "kept"), one.checkpoint("a", 3, 10)
    assert arrays is not None
    assert (arrays["x"].item(), checkpoint["w"].item()) == (0.25, 0.5)
    assert (one.array_names("a", 3), one.checkpoint_steps("a", 5)) == (["kept"], [10])
    assert (one.array_names("a", 4), one.arrays("a", 4, "kept")) == ([], None)
    assert one.status["state"] == "finished"
    assert set(one.status["trials"]) == {"a/seed-3", "a/seed-5"}
    assert (one.env["seeds"], one.env["command"]) == ([3, 5], ["c"])
    assert sweep.runs()[0].spec["seeds"] == [3, 5]


def test_results_are_the_first_seeds_and_claims_are_about_all(tmp_path: Path) -> None:
    write(tmp_path, [""], [0, 1, 2])
    for seed, figure in enumerate((1.0, 5.0, 2.0)):
        run(tmp_path, seed, figure)
    (one,) = open_runs([tmp_path])
    assert one.results == {"figure": 1.0}
    quantity = {"kind": "result", "name": "figure"}
    verdict = judge(Claim(says="so", quantity=quantity, at_least=2), one)
    assert verdict.state == "held"
    assert verdict.measured is not None
    assert verdict.measured.values == (1.0, 5.0, 2.0)


def test_a_setting_is_finished_when_all_its_seeds_are(tmp_path: Path) -> None:
    sweep = write(tmp_path, [""], [0, 1])
    assert sweep.runs()[0].status["state"] == "interrupted"
    assert sweep.runs()[0].trials == []
    run(tmp_path, 0, 1.0)
    assert sweep.runs()[0].status["state"] == "interrupted"
    run(tmp_path, 1, 1.0, finish=False)
    assert not is_finished(tmp_path / "seed-1")
    assert sweep.runs()[0].status["state"] == "interrupted"
    RunDirectory.resume(tmp_path / "seed-1", "cpu").close("failed", "ValueError: no")
    assert sweep.runs()[0].status["state"] == "failed"
    assert sweep.runs()[0].status["error"] == "seed 1: ValueError: no"
    RunDirectory.resume(tmp_path / "seed-1", "cpu").close("finished")
    assert sweep.runs()[0].status["state"] == "finished"


def test_a_setting_began_with_its_first_seed_and_ended_with_its_last(tmp_path: Path) -> None:
    sweep = write(tmp_path, [""], [0, 1])
    times = {0: ("2025-01-02", "2025-01-05"), 1: ("2025-01-01", "2025-01-04")}
    for seed, (started, ended) in times.items():
        run(tmp_path, seed, 1.0)
        file = tmp_path / f"seed-{seed}" / "status.json"
        status = {**json.loads(file.read_text()), "started": started, "ended": ended}
        file.write_text(json.dumps(status))
    status = sweep.runs()[0].status
    assert (status["started"], status["ended"]) == ("2025-01-01", "2025-01-05")


def _hold(path: Path, held: Event) -> None:
    with claim(path):
        held.set()
        held.wait(60)
        import time

        time.sleep(60)


def test_a_claim_goes_with_the_process_that_holds_it(tmp_path: Path) -> None:
    assert not is_claimed(tmp_path)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    assert is_claimed(tmp_path)
    process.kill()
    process.join(60)
    assert not is_claimed(tmp_path)
