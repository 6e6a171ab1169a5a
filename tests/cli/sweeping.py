"""A sweep small enough to be killed and resumed for real, and what it must come to."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from subprocess import Popen

from grokscope.experiments import load_experiment, run_experiment

SEEDS = 2
SWEPT = """
name: swept
title: A small sweep
threads: 1
data: {name: digits, train_size: 150}
model: {widths: [24, 16], weight_scale: 4}
training: {lr: 1e-3, weight_decay: 0.01, batch_size: 50, max_steps: 400,
           evaluate: {every: 20}, checkpoint_seconds: 0.05}
monitor: {probe_size: 16, pictures: 0, measures: [weight_norm]}
milestones:
  memorized: {metric: train_accuracy, target: 0.9}
  generalized: {metric: test_accuracy, target: 0.5}
arms:
  baseline: {title: Weight decay alone}
  grokalign: {title: GrokAlign, methods: [{name: grokalign, weight: 1e-3}]}
"""


def plain_runs(folder: Path, text: str = SWEPT) -> dict[int, bytes]:
    """The rows of each seed, run by itself in this process and never stopped."""
    (folder / "swept.yaml").write_text(text)
    # Fewer checkpoints: they cost time, and not one of the numbers.
    seldom = ["training.checkpoint_seconds=60"]
    experiment = load_experiment(str(folder / "swept.yaml"), settings=seldom)
    rows = {}
    for seed in range(SEEDS):
        one = experiment.model_copy(update={"seeds": (seed,)})
        run = run_experiment(one, folder / f"plain-{seed}", device="cpu")
        rows[seed] = (run.path / "metrics.jsonl").read_bytes()
    return rows


def wait_for_rows(process: Popen[str], run: Path, lines: int) -> int:
    """Wait until a run of the sweep has so many rows; the id of the process that writes them."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        metrics = run / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            return int(json.loads((run / "status.json").read_text())["pid"])
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"{run} never had {lines} rows: {process.communicate()}")


def kill(pid: int) -> None:
    """End a process as a machine without memory does."""
    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_same(sweep: Path, rows: dict[int, bytes]) -> None:
    """Every run of the sweep has the rows of a run that was never stopped, to the byte."""
    for seed, expected in rows.items():
        assert (sweep / f"seed-{seed}/metrics.jsonl").read_bytes() == expected, seed
