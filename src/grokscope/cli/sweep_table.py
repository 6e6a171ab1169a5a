"""The live table of a sweep: what is done, what is going on, what failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from grokscope.experiments.sweep import Job, Plan, RunState

_LEAST_ROWS = 3
_REFRESH_SECONDS = 0.5
_STYLES = {"failed": "red", "finished": "green", "elsewhere": "yellow"}


class SweepTable:
    """An observer of a sweep: a live table on a terminal, a line for each run in a log file.

    Args:
        console: where to write.
        folder: the sweep's folder.
        plan: what is run.
    """

    def __init__(self, console: Console, folder: Path, plan: Plan) -> None:
        self._console = console
        self._folder = folder.resolve()
        self._experiments = {
            str((folder / of.name).resolve()): of.experiment for of in plan.settings
        }
        self._begun = self._drawn = time.monotonic()
        self._started: dict[Job, float] = {}
        self._counts: Counter[str] = Counter()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> SweepTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def changed(self, job: Job, state: RunState) -> None:
        """A run has begun, or is over: said in a line that stays."""
        took = ""
        if state.state == "running":
            self._started[job] = state.since
        elif job in self._started:
            took = f" after {_clock(state.since - self._started.pop(job))}"
        if self._console.is_terminal and state.state == "running":
            return
        word = "started" if state.state == "running" else state.state
        self._say(Text.assemble((word, _STYLES.get(word, "")), f" {self._name(job)}{took}"))
        for line in state.message.splitlines():
            self._say(Text(f"    {line}", "dim"))

    def tick(self, states: Mapping[Job, RunState]) -> None:
        """Time goes by: draw the table anew."""
        before, self._counts = self._counts, Counter(of.state for of in states.values())
        if not before and self._counts["done before"]:
            self._say(Text(f"{self._counts['done before']} run(s) were finished before"))
        now = time.monotonic()
        if self._live.is_started and (now - self._drawn > _REFRESH_SECONDS or not before):
            self._drawn = now
            self._live.update(Group(self._head(len(states)), self._rows(states)), refresh=True)

    def _say(self, line: Text) -> None:
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _head(self, total: int) -> Text:
        counts = self._counts
        done = counts["finished"] + counts["done before"]
        parts = [
            f"{done} of {total} finished",
            *(
                f"{counts[state]} {state}"
                for state in ("running", "elsewhere", "failed", "waiting")
                if counts[state]
            ),
        ]
        return Text(f"{', '.join(parts)}, {_clock(time.monotonic() - self._begun)}", "bold")

    def _rows(self, states: Mapping[Job, RunState]) -> Table:
        """The runs that are going on, as many as the terminal has lines for."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("run", overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column("condition", overflow="ellipsis", no_wrap=True, max_width=18)
        for name in ("step", "train", "test", "time"):
            table.add_column(name, justify="right", no_wrap=True)
        going_on = [job for job, of in states.items() if of.state in ("running", "elsewhere")]
        room = max(_LEAST_ROWS, self._console.height - 4)
        for job in going_on[:room]:
            table.add_row(*self._cells(job, states[job]))
        if len(going_on) > room:
            table.add_row(f"and {len(going_on) - room} more")
        return table

    def _cells(self, job: Job, state: RunState) -> list[str]:
        from grokscope.experiments.sweep import progress_of

        at = progress_of(job.run)
        since = _clock(time.monotonic() - state.since)
        if at is None:
            word = "starting" if state.state == "running" else "elsewhere"
            return [self._name(job), word, "", "", "", since]
        arms = self._experiments[job.folder].arms
        place = list(arms).index(at.arm) + 1 if at.arm in arms else 0
        many = f" {place}/{len(arms)}" if len(arms) > 1 else ""
        return [
            self._name(job),
            f"{at.arm}{many}",
            f"{at.step:,}",
            *("" if of is None else f"{of:.0%}" for of in (at.train_accuracy, at.test_accuracy)),
            since,
        ]

    def _name(self, job: Job) -> str:
        return str(job.run.relative_to(self._folder))


def _clock(seconds: float) -> str:
    """Seconds as people read a clock.

    Example:
        >>> _clock(7.2), _clock(75), _clock(3700)
        ('7 s', '1 min 15 s', '1 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
