"""The engine of one machine: processes that take one run after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from grokscope.experiments.sweep.engine import Job, Outcome, last_lines
from grokscope.runs.side_files import LOG
from grokscope.training.device import resolve_device

BUSY, FAILED, INTERRUPTED = 75, 1, 130
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


class _Worker:
    """A process that takes one job after another, so that torch is loaded once for all of them.

    Args:
        place: its number among the workers.
        environment: what it is started with.
        log: where it says what keeps it from starting.
    """

    def __init__(self, place: int, environment: Mapping[str, str], log: Path) -> None:
        self.place = place
        self.job: Job | None = None
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "grokscope.experiments.sweep"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(environment),
                # Ctrl-C on a terminal goes to a whole group: it is for us to pass on.
                start_new_session=True,
            )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def take(self, job: Job) -> None:
        """Begin to work on a job; one that has died meanwhile is told of by ``ended``."""
        self.job = job
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            self.process.stdin.flush()

    def ended(self) -> int | None:
        """The code of how its job ended; None where it goes on."""
        code = self.process.poll()  # first: what it answered before it died is then there to read
        assert self.process.stdout is not None
        answer = self.process.stdout.read()
        return int(answer) if answer else code

    def close(self) -> None:
        """Let go of a process that is over."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


class ProcessEngine:
    """Jobs in processes that take one after another; one that crashes harms no other job.

    Args:
        workers: how many at the same time.
        gpus: the GPUs to share among them, as CUDA numbers them; each process sees one alone.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        if workers < 1:
            raise ValueError(f"--workers must be a positive number: got {workers}")
        self.workers = workers
        self.gpus = list(gpus)
        self._pool: dict[int, _Worker] = {}

    def room(self) -> int:
        """How many more jobs may be started now."""
        return self.workers - sum(worker.job is not None for worker in self._pool.values())

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin to work on jobs."""
        for job in jobs:
            job.run.mkdir(parents=True, exist_ok=True)
            self._free(job).take(job)

    def environment(self, place: int, threads: int | None) -> dict[str, str]:
        """Ours, with as many threads for the libraries below PyTorch, and the worker's own GPU."""
        wanted = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
        return {**wanted, **os.environ, **gpu}

    def ended(self) -> list[Outcome]:
        """The jobs that are over."""
        outcomes = []
        for worker in list(self._pool.values()):
            code = worker.ended()
            if code is None:
                continue
            if worker.job is not None:
                outcomes.append(_outcome(worker.job, code))
            worker.job = None
            if worker.process.poll() is not None:
                self._let_go(worker)
        return outcomes

    def stop(self) -> None:
        """Ask all processes to end, and end those that do not in time."""
        workers = list(self._pool.values())
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for worker in workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()
                self._let_go(worker)

    def _free(self, job: Job) -> _Worker:
        """A worker without a job, started where there is none."""
        for worker in list(self._pool.values()):
            if worker.job is None and worker.process.poll() is None:
                return worker
            if worker.job is None:
                self._let_go(worker)
        place = next(at for at in range(self.workers) if at not in self._pool)
        environment = self.environment(place, job.threads)
        self._pool[place] = _Worker(place, environment, job.run / LOG)
        return self._pool[place]

    def _let_go(self, worker: _Worker) -> None:
        worker.close()
        self._pool.pop(worker.place, None)


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
