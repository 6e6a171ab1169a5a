"""Sweeps on SLURM, by submitit: a job array, each run a job of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from grokscope.experiments.sweep.engine import LAST_LINES, Job, Outcome
from grokscope.experiments.sweep.work import work
from grokscope.extras import require
from grokscope.runs.sweep_folder import is_finished

LOOK_SECONDS = 10.0  # how often squeue is asked
# of squeue's states those that a job does not come back from
_FINAL = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
}


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
        self._queue = _Queue() if cluster == "slurm" else None
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
        outcomes = [_outcome(submitted, self._jobs.pop(submitted)) for submitted in done]
        if self._queue is None or not self._jobs:
            return outcomes
        names = {submitted.job_id: submitted for submitted in self._jobs}
        for name, state in self._queue.over(names).items():
            outcomes.append(_without_answer(names[name], state, self._jobs.pop(names[name])))
        return outcomes

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


class _Queue:
    """Jobs that are over by what squeue says of them.

    Submitit asks sacct alone, which says nothing on a cluster without accounting: a job that was
    cancelled there would be waited for without end. A job that SLURM puts back into the queue can
    be gone for a moment, so that it takes two looks in a row to call one over.
    """

    def __init__(self) -> None:
        self._looked = float("-inf")
        self._seen: set[str] = set()
        self._over: set[str] = set()

    def over(self, names: Collection[str]) -> dict[str, str]:
        """Of these jobs those that are over, with the state in which squeue knew them last."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return {}
        self._looked = now
        states = _states(names)
        if states is None:
            return {}
        self._seen |= states.keys()
        # what was never seen may be too new to be listed
        gone = dict.fromkeys((self._seen & set(names)) - states.keys(), "gone from the queue")
        ended = {name: state for name, state in states.items() if state in _FINAL}
        before, self._over = self._over, {*gone, *ended} & set(names)
        return {name: state for name, state in {**gone, **ended}.items() if name in before}


def _states(names: Collection[str]) -> dict[str, str] | None:
    """The state of each job that squeue lists, by its name; None where squeue does not answer."""
    arrays = sorted({name.partition("_")[0] for name in names})
    command = ["squeue", "-h", "-r", "-t", "all", "-o", "%i %T", "-j", ",".join(arrays)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # a single job that is forgotten is an error to squeue
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    lines = (line.split() for line in done.stdout.splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 2 and line[0] in names}


def _without_answer(submitted: Any, state: str, job: Job) -> Outcome:
    """How a job ended that left no result."""
    if submitted.paths.result_pickle.exists():
        return _outcome(submitted, job)
    if is_finished(job.run):
        return Outcome(job, "finished")
    said = "it was cancelled" if state == "CANCELLED" else f"it left no result ({state})"
    return Outcome(job, "failed", f"SLURM's job {submitted.job_id}: {said}")


def _outcome(submitted: Any, job: Job) -> Outcome:
    error = submitted.exception()
    if error is None:
        return Outcome(job, "finished" if submitted.result() else "busy")
    lines = str(error).rstrip().splitlines()[-LAST_LINES:]
    return Outcome(job, "failed", "\n".join(lines) or type(error).__name__)
