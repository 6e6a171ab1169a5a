"""Measures of networks whose training is over, taken from the checkpoints that it kept.

Some measures cost more than the thousands of steps between two of them, as the manifold geometry
of every layer or the kernel of many outputs do. A spec names those in ``monitor.after_training``:
training runs without them, on a GPU where there is one, and they are measured at the kept
checkpoints afterwards, several trainings at a time where there are cores for it. The values join
the rows of their steps when a run is read.

A run that was stopped goes on at the first checkpoint without values.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from grokscope.experiments.from_spec import build_model, build_monitor, load_dataset
from grokscope.experiments.spec import Experiment, TrialSpec
from grokscope.runs import History, LaterRows, Run
from grokscope.training.host_memory import keep_freed_memory

OnMeasured = Callable[[str, int], None]


def measure_after_training(
    experiment: Experiment,
    path: Path,
    *,
    workers: int = 1,
    data_dir: str | Path | None = None,
    on_measured: OnMeasured | None = None,
) -> None:
    """Measure the kept checkpoints of every training that a spec wants measured afterwards.

    Args:
        experiment: the experiment of the run directory.
        path: the run directory; all its trainings are over.
        workers: trainings whose checkpoints are measured at a time, a process each.
        data_dir: a folder that holds the data sets already.
        on_measured: told the arm and the seed of each training that has been measured.
    """
    tasks = [
        (arm, seed)
        for arm, spec in experiment.arms.items()
        if spec.monitor.after_training
        for seed in experiment.seeds
    ]
    if workers == 1 or len(tasks) < 2:
        for arm, seed in tasks:
            measure_checkpoints(experiment.arms[arm], path, arm, seed, data_dir)
            if on_measured:
                on_measured(arm, seed)
        return
    # Sections of a spec are classes made from signatures, which do not pickle: plain values do.
    written = experiment.model_dump(mode="json")
    # Spawned: a forked process would inherit torch's thread pool without its threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: dict[Future[None], tuple[str, int]] = {
            pool.submit(_measure_in_process, written, path, arm, seed, data_dir): (arm, seed)
            for arm, seed in tasks
        }
        for done in as_completed(pending):
            done.result()
            if on_measured:
                on_measured(*pending[done])


def _measure_in_process(
    written: dict[str, Any], path: Path, arm: str, seed: int, data_dir: str | Path | None
) -> None:
    keep_freed_memory()
    experiment = Experiment.model_validate(written)
    torch.set_num_threads(experiment.threads or 1)
    measure_checkpoints(experiment.arms[arm], path, arm, seed, data_dir)


def measure_checkpoints(
    spec: TrialSpec, path: Path, arm: str, seed: int, data_dir: str | Path | None = None
) -> None:
    """Measure the checkpoints of one training that have no values yet, in the order of steps."""
    run, later = Run(path), LaterRows(path, arm, seed)
    rows = later.open()
    steps = run.checkpoint_steps(arm, seed)
    if [row["step"] for row in rows] == steps:
        return
    data = load_dataset(spec.data, spec.training.dtype, data_dir)
    model = build_model(spec.model, data, seed).to(getattr(torch, spec.training.dtype))
    wanted = spec.monitor.model_copy(
        update={"measures": spec.monitor.after_training, "pictures": 0}
    )
    monitor = build_monitor(wanted, model, data, spec.training.loss)
    assert monitor is not None
    monitor.keep_in(later)
    monitor.restore(History(rows))
    for step in steps[len(rows) :]:
        model.load_state_dict(run.checkpoint(arm, seed, step)["model"])
        later.append({"step": step, **monitor.measure(step)})
    monitor.finish()
