"""Many seeds by one command: trained as one, killed for real, resumed, compared."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import torch

from grokscope.runs import Run
from tests.cli.running import EXPERIMENT, grokscope
from tests.cli.test_interruption import stop_after

COMMAND = ["run", "small.yaml", "--seeds", "3", "--out", "run", "--set", "training.max_steps=160"]
SEEDS = (0, 1, 2)


def test_seeds_killed_again_and_again_end_with_the_numbers_of_seeds_left_alone(
    tmp_path: Path,
) -> None:
    for name in ("whole", "killed", "apart"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small.yaml").write_text(EXPERIMENT)
    whole = grokscope(*COMMAND, "--set", "vectorize=true", folder=tmp_path / "whole")
    assert (whole.returncode, whole.stderr) == (0, "")
    # Rows at which to kill: in the first arm and in the second.
    for kill, lines in enumerate((8, 80)):
        resume = ["--resume"] if kill else []
        arguments = [*COMMAND, "--set", "vectorize=true", *resume]
        assert stop_after(arguments, tmp_path / "killed/run", lines, signal.SIGKILL)[0] == -9
    done = grokscope(*COMMAND, "--set", "vectorize=true", "--resume", folder=tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    runs = {name: Run(tmp_path / name / "run") for name in ("whole", "killed")}
    rows = [(run.path / "metrics.jsonl").read_bytes() for run in runs.values()]
    assert rows[0] == rows[1]
    for arm in ("baseline", "grokalign"):
        for seed in SEEDS:
            ours, theirs = (run.checkpoint(arm, seed)["model"] for run in runs.values())
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (
        grokscope(*COMMAND, "--set", "vectorize=false", folder=tmp_path / "apart").returncode == 0
    )
    assert_equal_up_to_rounding(runs["whole"], Run(tmp_path / "apart/run"))


def assert_equal_up_to_rounding(together: Run, apart: Run) -> None:
    for arm in ("baseline", "grokalign"):
        for seed in SEEDS:
            ours, theirs = together.history(arm, seed), apart.history(arm, seed)
            assert ours.steps.tolist() == theirs.steps.tolist()
            assert set(ours.names) == set(theirs.names)
            for name in ("train_loss", "test_loss", "jacobian_norm", "weight_norm"):
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, err_msg=name)


def test_networks_that_cannot_be_one_are_told_of_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    changes = ["training.max_steps=2", "training.optimizer=sgd", "data.reduce_to_span=true"]
    settings = [part for change in changes for part in ("--set", change)]
    done = grokscope(*COMMAND, *settings, "--set", "arms={baseline: {}}", folder=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "training the seeds of baseline one after another: data.reduce_to_span gives each network "
        "data of its own"
    ]
    done = grokscope(*COMMAND, *settings, "--set", "vectorize=true", folder=tmp_path)
    assert done.returncode == 2
    assert "vectorize: true does not go with data.reduce_to_span" in done.stderr
