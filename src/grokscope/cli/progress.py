"""Live progress of a run: a bar for each training, with its accuracies."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from grokscope.shown import latest

if TYPE_CHECKING:
    from grokscope.training import FitResult

PLAIN_SECONDS = 10.0


class LiveProgress:
    """An observer of a run: bars on a terminal, a line every few seconds in a log file.

    Args:
        console: where to write.
        num_seeds: with one seed, the seed is not mentioned.
    """

    def __init__(self, console: Console, num_seeds: int) -> None:
        self._console = console
        self._num_seeds = num_seeds
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._said = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:>6,}/{task.total:,}"),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def trial_started(self, arm: str, seed: int, max_steps: int) -> None:
        """A training begins, or goes on."""
        self._tasks[arm, seed] = self._progress.add_task(
            self._name(arm, seed), total=max_steps, metrics=""
        )

    def evaluated(self, arm: str, seed: int, row: Mapping[str, Any], seconds: float) -> None:
        """The network was evaluated."""
        self.reached(arm, seed, row, row["step"])

    def reached(self, arm: str, seed: int, row: Mapping[str, Any], completed: int) -> None:
        """So much of what ``trial_started`` announced is done."""
        metrics = latest(row)
        self._progress.update(self._tasks[arm, seed], completed=completed, metrics=metrics)
        if not self._console.is_terminal and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self._console.print(f"{self._name(arm, seed)}  step {row['step']:,}  {metrics}")

    def trial_finished(self, arm: str, seed: int, result: FitResult) -> None:
        """A training is over."""
        self._progress.update(self._tasks[arm, seed], total=result.steps, completed=result.steps)

    def _name(self, arm: str, seed: int) -> str:
        return arm if self._num_seeds == 1 else f"{arm} seed {seed}"
