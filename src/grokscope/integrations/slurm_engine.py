"""Sweeps on SLURM, by submitit: a job array, each run a job of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grokscope.experiments.sweep import Job, Outcome, work
from grokscope.experiments.sweep.engine import LAST_LINES
from grokscope.extras import require


class SlurmEngine:
    """Each job of a sweep as a job of a SLURM array.

    A job that SLURM preempts, or that runs out of its time, is queued again and goes on from the
    run's last checkpoint. The sweep's folder has to lie on a disk that the nodes share.

    Args:
        folder: where submitit keeps its scripts and logs.
        workers: how many jobs at the same time; None for as many as SLURM allows.
        threads: cores that each job takes.
        options: what submitit's executor is given, such as ``slurm_partition="gpu"`` or
            ``timeout_min=240``.
        cluster: "slurm"; "local" for processes of this machine under submitit's own care.

    Raises:
        MissingExtra: if submitit is not installed.
        ValueError: if ``workers`` is not positive, there is no SLURM here, or submitit does not
            know an option.
    """

    def __init__(
        self,
        folder: str | Path,
        workers: int | None = None,
        threads: int = 1,
        options: dict[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"--workers must be a positive number: got {workers}")
        submitit: Any = require("submitit", "slurm")
        self._workers = workers if cluster == "local" else None
        self._jobs: dict[Any, Job] = {}
        settings: dict[str, Any] = {
            "name": "grokscope",
            "cpus_per_task": threads,
            "timeout_min": 24 * 60,
            **(options or {}),
        }
        if workers is not None and cluster == "slurm":
            settings["slurm_array_parallelism"] = workers
        try:
            self._executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
            self._executor.update_parameters(**settings)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"SLURM cannot be used as asked: {reason}") from None

    def room(self) -> int:
        """How many more jobs may be started now; SLURM has a queue of its own."""
        return sys.maxsize if self._workers is None else self._workers - len(self._jobs)

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs as one array."""
        with self._executor.batch():
            submitted = [self._executor.submit(ResumableWork(), job) for job in jobs]
        self._jobs.update(zip(submitted, jobs, strict=True))

    def ended(self) -> list[Outcome]:
        """The jobs that are over."""
        done = [submitted for submitted in self._jobs if submitted.done()]
        return [_outcome(submitted, self._jobs.pop(submitted)) for submitted in done]

    def stop(self) -> None:
        """Cancel all jobs; what they have recorded is kept."""
        for submitted in self._jobs:
            submitted.cancel()
        self._jobs.clear()


class ResumableWork:
    """The work on a run, as submitit wants it: it may be submitted again where it was cut off."""

    def __call__(self, job: Job) -> bool:
        """Work on the run; see ``work``."""
        return work(job)

    def checkpoint(self, job: Job) -> Any:
        """What to submit when SLURM takes the job away: the same, for the run resumes itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _outcome(submitted: Any, job: Job) -> Outcome:
    error = submitted.exception()
    if error is None:
        return Outcome(job, "finished" if submitted.result() else "busy")
    lines = str(error).rstrip().splitlines()[-LAST_LINES:]
    return Outcome(job, "failed", "\n".join(lines) or type(error).__name__)
