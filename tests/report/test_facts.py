"""What was run, in words: states, machines, methods and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grokscope.report import facts
from grokscope.runs import Run, RunDirectory
from grokscope.runs.sweep_folder import open_runs, write_sweep

ARMS = {
    "plain": {"title": "Plain", "methods": [], "training": {"lr": 0.1, "batch_size": 50}},
    "other": {
        "methods": [{"name": "grokalign", "weight": 0.01, "every": 4}, {"name": "orthograd"}],
        "training": {"lr": 0.2, "batch_size": 50},
        "monitor": {"probe_size": 9},
    },
}


def finished(path: Path, **spec: Any) -> Path:
    """A run of two arms and two seeds, whose trainings took 70 seconds together."""
    whole = {"name": "small", "seeds": [3, 5], "arms": ARMS, **spec}
    with RunDirectory.create(path, whole, "cpu", [3, 5]) as run:
        for arm, seed, seconds in (("plain", 3, 20.0), ("plain", 5, 30.0), ("other", 3, 20.0)):
            trial = run.trial(arm, seed)
            trial.append({"step": 0, "test_accuracy": 0.1}, {"train_seconds": 0.0})
            trial.append({"step": 9, "test_accuracy": 0.9}, {"train_seconds": seconds})
    return path


def changed(path: Path, name: str, **content: Any) -> None:
    """Write other things into one of the small files of a run."""
    before = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**before, **content}))


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("finished", None, ""),
        ("interrupted", None, "This run was interrupted; grokscope run --resume goes on with it."),
        ("killed", None, "was killed before it finished; grokscope run --resume goes on with it."),
        ("failed", None, "This run failed before it finished."),
        ("failed", "out of memory", "This run failed before it finished: out of memory"),
        ("interrupted", "it is gone", "grokscope run --resume goes on with it."),
        ("strange", None, ""),
    ],
)
def test_a_run_that_is_not_whole_says_so(
    tmp_path: Path, state: str, error: str | None, said: str
) -> None:
    path = finished(tmp_path / "run")
    changed(path, "status.json", state="running" if state == "killed" else state, error=error)
    notice = facts.state_notice(Run(path))
    assert notice.endswith(said)
    assert bool(notice) == bool(said)


def test_what_goes_on_with_it_is_the_command_that_made_it(tmp_path: Path) -> None:
    measured = finished(tmp_path / "run", measured={"checkpoints": 2})
    changed(measured, "status.json", state="interrupted")
    assert "; the same grokscope measure goes on with it." in facts.state_notice(Run(measured))
    spec = {"name": "small", "seeds": [3], "arms": ARMS}
    write_sweep(tmp_path / "sweep", "small", {"": {}}, {"": spec}, [3], ["grokscope"])
    (sweep,) = open_runs([tmp_path / "sweep"])
    assert "; the same grokscope sweep goes on with it." in facts.state_notice(sweep)


def test_what_a_run_was_made_with(tmp_path: Path) -> None:
    path = finished(tmp_path / "run", reproduces=["a/fig1", "a/fig2"], preset="paper")
    changed(
        path,
        "env.json",
        command=["grokscope", "run", "small"],
        device="cuda",
        accelerator="H100",
        processor="x86",
        platform="Linux",
        cores=16,
        threads=2,
        grokscope="1.0",
        python="3.12",
        packages={"torch": "2.6", "numpy": "2.0"},
        git_commit="abc",
        git_dirty=True,
        resumed=[{"started": "monday"}, {"started": "friday"}],
    )
    changed(path, "status.json", started="sunday", ended="saturday")
    assert facts.run_facts(Run(path)) == {
        "command": "grokscope run small",
        "folder": str(path),
        "reproduces": "a/fig1, a/fig2",
        "preset": "paper",
        "seeds": "3, 5",
        "state": "finished",
        "started": "sunday",
        "ended": "saturday",
        "training time": "70.0 s",
        "device": "cuda H100",
        "machine": "x86; 16 cores, 2 threads used; Linux",
        "grokscope": "1.0",
        "python": "3.12",
        "packages": "torch 2.6, numpy 2.0",
        "git commit": "abc with changes",
        "resumed": "monday, friday",
    }


def test_what_is_not_known_of_a_run_is_left_out(tmp_path: Path) -> None:
    path = finished(tmp_path / "run", reproduces="a/fig1", seeds=[])
    (path / "env.json").write_text(json.dumps({"seeds": [7], "started": "monday", "cores": 2}))
    (path / "timing.jsonl").write_text("")
    changed(path, "status.json", started=None, ended=None)
    assert facts.run_facts(Run(path)) == {
        "folder": str(path),
        "reproduces": "a/fig1",
        "seeds": "7",
        "state": "finished",
        "started": "monday",
        "machine": "2 cores, ? threads used",
    }


def test_arms_are_told_by_what_sets_them_apart(tmp_path: Path) -> None:
    run = Run(finished(tmp_path / "run"))
    plain, other = facts.arm_facts(run)
    assert (plain.arm, plain.title, plain.methods) == ("plain", "Plain", "no method added")
    assert (other.title, other.methods) == (
        "other",
        "grokalign (weight 0.01, every 4) and orthograd",
    )
    # methods have a line of their own, and what is measured sets no training apart
    assert (plain.apart, other.apart) == ({"training.lr": "0.1"}, {"training.lr": "0.2"})
    assert facts.common_settings(run) == {"training.batch_size": "50"}
    assert facts.spec_text(run).startswith("name: small\n")


def test_settings_as_flat_names() -> None:
    nested = {"a": {"b": {"c": True}, "d": None}, "e": [1, 2], "f": False, "g": "x", "h": []}
    assert facts.flat_settings(nested) == {
        "a.b.c": "yes", "e": "1, 2", "f": "no", "g": "x", "h": "none",
    }  # fmt: skip
    assert facts.flat_settings({"m": [{"name": "x"}, {"other": 1}]})["m"].startswith("{'name'")
    assert facts.shared_settings([]) == {}
    assert facts.differing([{"a": "1"}]) == []
