"""What a sweep asks of that which runs its jobs: processes, Ray, SLURM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from grokscope.runs.side_files import LOG

LAST_LINES = 6


@dataclass(frozen=True)
class Job:
    """One run of a sweep: a setting with one seed; plain data that goes to any machine.

    Args:
        folder: absolute path of the setting's folder.
        seed: the seed.
        device: "auto", "cpu", "cuda" or "mps".
        data_dir: a folder that holds the data sets already.
        threads: CPU threads, unless the experiment says so itself.
    """

    folder: str
    seed: int
    device: str = "auto"
    data_dir: str | None = None
    threads: int | None = None

    @property
    def run(self) -> Path:
        """The run directory."""
        return Path(self.folder) / f"seed-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    "busy": another process works on the run. ``message`` says what went wrong.
    """

    job: Job
    state: Literal["finished", "busy", "failed"]
    message: str = ""


@runtime_checkable
class Engine(Protocol):
    """Works on jobs at the same time."""

    def room(self) -> int:
        """How many more jobs may be started now."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin to work on jobs, as many as there is room for."""

    def ended(self) -> list[Outcome]:
        """The jobs that have ended since the last call."""

    def stop(self) -> None:
        """End all jobs so that they can be resumed, and give back what the engine holds."""


def last_lines(run: Path) -> str:
    """The end of what a job printed."""
    try:
        text = (run / LOG).read_text("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-LAST_LINES:])
