"""The work on one run of a sweep, in whatever process it is done."""

from __future__ import annotations

from pathlib import Path

import torch
from filelock import Timeout

from grokscope.experiments.runner import run_experiment
from grokscope.experiments.spec import Experiment
from grokscope.experiments.sweep.engine import Job
from grokscope.runs import RunError
from grokscope.runs.seed_runs import EXPERIMENT, read_experiment
from grokscope.runs.side_files import holds_run
from grokscope.runs.sweep_folder import claim, is_finished

_CLAIM_SECONDS = 2.0  # a look at whether a run is claimed lets go at once


def work(job: Job) -> bool:
    """Run, or go on with, one run of a sweep; False where another process works on it.

    Raises:
        RunError: if the folder or its experiment is not there, or cannot be written.
        DataError: if the data are missing or damaged.
    """
    folder = Path(job.folder)
    if not folder.is_dir():
        raise RunError(
            f"{folder} is not to be seen here; the folder of a sweep on several machines must lie "
            "on a disk that all of them share"
        )
    run = job.run
    run.mkdir(exist_ok=True)
    lock = claim(run)
    try:
        lock.acquire(timeout=_CLAIM_SECONDS)
    except Timeout:
        return False
    try:
        if not is_finished(run):
            _run(job)
    finally:
        lock.release()
    return True


def _run(job: Job) -> None:
    experiment = experiment_of(Path(job.folder)).model_copy(update={"seeds": (job.seed,)})
    before = torch.get_num_threads()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        run_experiment(
            experiment,
            job.run,
            device=job.device,
            resume=holds_run(job.run),
            data_dir=job.data_dir,
        )
    finally:
        torch.set_num_threads(before)


def experiment_of(folder: Path) -> Experiment:
    """The experiment of a setting.

    Raises:
        RunError: if its file is gone.
    """
    written = read_experiment(folder)
    if written is None:
        raise RunError(f"{folder / EXPERIMENT} is gone; start the sweep again")
    return Experiment.model_validate(written)
