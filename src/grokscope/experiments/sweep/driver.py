"""Work through a sweep: run directories are the queue, an engine does the work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from grokscope.experiments.sweep.engine import Engine, Job
from grokscope.runs.sweep_folder import is_claimed, is_finished

TICK_SECONDS = 0.2
CLAIM_SECONDS = 2.0  # how often to look whether another process has let go of a run


@dataclass(frozen=True)
class RunState:
    """How a run of the sweep stands.

    "done before" was finished when the sweep began, "elsewhere" is in work by another process.
    """

    state: Literal["waiting", "running", "elsewhere", "finished", "failed", "done before"]
    message: str = ""
    since: float = 0.0


@runtime_checkable
class SweepObserver(Protocol):
    """What is told of a sweep while it goes on."""

    def changed(self, job: Job, state: RunState) -> None:
        """A run has begun, or is over."""

    def tick(self, states: Mapping[Job, RunState]) -> None:
        """Time goes by."""


def work_through(
    jobs: Sequence[Job], engine: Engine, observer: SweepObserver | None = None
) -> dict[Job, RunState]:
    """Work on all runs that are not finished; how each stands in the end.

    A run that fails leaves the others alone. On an interruption the engine ends its jobs, so that
    each can be resumed, and the interruption goes on.

    Args:
        jobs: the runs, in the order in which they are begun.
        engine: does the work.
        observer: told of what happens.
    """
    queue = _Queue(jobs, engine, observer)
    try:
        while queue.is_open:
            queue.collect()
            queue.fill()
            if observer:
                observer.tick(queue.states)
            if queue.is_open:
                time.sleep(TICK_SECONDS)
    finally:
        engine.stop()
    return queue.states


class _Queue:
    def __init__(self, jobs: Sequence[Job], engine: Engine, observer: SweepObserver | None) -> None:
        self.engine = engine
        self.observer = observer
        self.states = {
            job: RunState("done before" if is_finished(job.run) else "waiting") for job in jobs
        }
        self._looked: dict[Job, float] = {}

    @property
    def is_open(self) -> bool:
        return any(of.state in ("waiting", "running", "elsewhere") for of in self.states.values())

    def collect(self) -> None:
        """Note what has ended."""
        for outcome in self.engine.ended():
            if outcome.state == "busy":
                self._set(outcome.job, "elsewhere")
            else:
                self._set(outcome.job, outcome.state, outcome.message)

    def fill(self) -> None:
        """Begin as many of the waiting runs as there is room for."""
        room = self.engine.room()
        chosen: list[Job] = []
        for job, state in self.states.items():
            if len(chosen) >= room:
                break
            if state.state in ("waiting", "elsewhere") and self._is_free(job):
                chosen.append(job)
        for job in chosen:
            self._set(job, "running")
        if chosen:
            self.engine.start(chosen)

    def _is_free(self, job: Job) -> bool:
        """Whether a run is there to be taken; one that another process finished is noted so."""
        now = time.monotonic()
        if now - self._looked.get(job, -CLAIM_SECONDS) < CLAIM_SECONDS:
            return False
        self._looked[job] = now
        if is_claimed(job.run):
            self._set(job, "elsewhere")
            return False
        if is_finished(job.run):
            self._set(job, "finished")
            return False
        return True

    def _set(self, job: Job, state: str, message: str = "") -> None:
        if self.states[job].state == state:
            return
        self.states[job] = RunState(state, message, time.monotonic())  # type: ignore[arg-type]
        if self.observer:
            self.observer.changed(job, self.states[job])
