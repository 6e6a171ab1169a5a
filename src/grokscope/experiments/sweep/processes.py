"""The engine of one machine: a process for each run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch

from grokscope.experiments.sweep.engine import Job, Outcome, last_lines
from grokscope.runs.sweep_folder import LOG
from grokscope.training.device import resolve_device

BUSY, INTERRUPTED = 75, 130
_STOP_SECONDS = 30.0


def num_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(device: str) -> list[str]:
    """The GPUs that runs on a device would use, as CUDA numbers them; none on other devices."""
    if resolve_device(device).type != "cuda":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else list(map(str, range(torch.cuda.device_count())))


class ProcessEngine:
    """Each job in a process of its own, so that none can harm another.

    Args:
        workers: how many at the same time.
        gpus: the GPUs to share among them, as CUDA numbers them; each job sees one alone.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        if workers < 1:
            raise ValueError(f"--workers must be a positive number: got {workers}")
        self.workers = workers
        self.gpus = list(gpus)
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._places: dict[Job, int] = {}

    def room(self) -> int:
        """How many more jobs may be started now."""
        return self.workers - len(self._running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin to work on jobs."""
        for job in jobs:
            job.run.mkdir(parents=True, exist_ok=True)
            taken = [self._places[other] for other in self._running]
            self._places[job] = next(at for at in range(self.workers) if at not in taken)
            with (job.run / LOG).open("ab") as log:
                self._running[job] = subprocess.Popen(
                    [sys.executable, "-m", "grokscope.experiments.sweep", json.dumps(asdict(job))],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment(job),
                    # Ctrl-C on a terminal goes to a whole group: it is for us to pass on.
                    start_new_session=True,
                )

    def environment(self, job: Job) -> dict[str, str]:
        """Ours, with as many threads for the libraries below PyTorch, and the job's own GPU."""
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        place = self._places.get(job, 0)
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
        return {**threads, **os.environ, **gpu}

    def ended(self) -> list[Outcome]:
        """The jobs whose process is over."""
        over = {job: code for job, of in self._running.items() if (code := of.poll()) is not None}
        for job in over:
            del self._running[job]
        return [_outcome(job, code) for job, code in over.items()]

    def stop(self) -> None:
        """Ask all processes to end, and end those that do not in time."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for process in self._running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self._running.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._running.clear()


def _outcome(job: Job, code: int) -> Outcome:
    if code == 0:
        return Outcome(job, "finished")
    if code == BUSY:
        return Outcome(job, "busy")
    said = last_lines(job.run)
    if code == INTERRUPTED:
        return Outcome(job, "failed", "its process was stopped")
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        killed = f"its process was killed by {name}"
        hint = " (was memory short?)" if -code == signal.SIGKILL else ""
        return Outcome(job, "failed", f"{killed}{hint}" + (f"\n{said}" if said else ""))
    return Outcome(job, "failed", said or f"its process ended with exit code {code}")
