"""How far a training is: a line on a terminal or in a notebook, while it goes on.

Nothing of it runs between steps but the comparison of two clock values. It is drawn at most twice a
second, and so seldom that drawing takes 1/500 of the time at most.
"""

from __future__ import annotations

import html
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from grokscope.shown import latest

if TYPE_CHECKING:
    from grokscope.training.member import Member

SHOWN = (True, False, "auto")
_SHARE = 500  # how many times as long as it took to draw the line before it is drawn anew


@runtime_checkable
class Place(Protocol):
    """Where the line is drawn.

    Attributes:
        interval: the least seconds between two drawings.
    """

    interval: float

    def draw(self, completed: int, total: int, text: str) -> None:
        """Show so many of all steps as done, with words."""

    def close(self) -> None:
        """Leave the place as it was."""


class ProgressLine:
    """Tells how far networks are, of which those in a loop are trained and others may wait.

    Args:
        members: all networks of the training.
        place: where to draw.
    """

    def __init__(self, members: Sequence[Member], place: Place) -> None:
        self._members = members
        self._place = place
        self._began = time.perf_counter()
        self._due = self._began + place.interval
        # when it was first drawn, and the steps that were done then, as of a resumed training
        self._first: tuple[float, int] | None = None
        self._rows: dict[int, Mapping[str, Any]] = {}

    def at(self, trained: Sequence[Member], step: int) -> None:
        """These networks have taken that step; draw if it is time to."""
        if time.perf_counter() >= self._due:
            self._draw(trained, step)

    def evaluated(self, member: Member, row: Mapping[str, Any]) -> None:
        """Keep what a network's last evaluation gave."""
        self._rows[member.seed] = row

    def _draw(self, trained: Sequence[Member], step: int) -> None:
        begin = time.perf_counter()
        alive = {id(member) for member in trained}
        most = self._members[0].settings.max_steps
        completed = sum(
            # one that ended early leaves no steps to wait for
            most if member.stopped else step if id(member) in alive else member.reached
            for member in self._members
        )
        self._first = self._first or (begin, completed)
        self._place.draw(completed, most * len(self._members), self._text(completed, most))
        end = time.perf_counter()
        self._due = end + max(self._place.interval, _SHARE * (end - begin))

    def _text(self, completed: int, most: int) -> str:
        number = len(self._members)
        now = time.perf_counter()
        since, first = self._first or (self._began, 0)
        taken = completed - first
        parts = [latest(_mean(list(self._rows.values()))), _clock(now - self._began)]
        if number > 1:
            ended = sum(member.stopped is not None for member in self._members)
            parts.insert(0, f"{ended}/{number} seeds")
        if taken > 0:
            left = (now - since) * (most * number - completed) / taken
            parts[-1] += f", {_clock(left)} left"
        return "  ".join(part for part in parts if part)


@contextmanager
def progress_line(
    wanted: bool | str, members: Sequence[Member], quiet: bool
) -> Iterator[ProgressLine | None]:
    """The line of a training while it runs, or None where none is wanted.

    Args:
        wanted: True, False or "auto": on a terminal and in a notebook.
        members: all networks of the training.
        quiet: whether "auto" shows none at all, as where others show the progress.
    """
    quiet = quiet or not _is_first()
    place = None if wanted is False or (quiet and wanted == "auto") else _place(wanted is True)
    if place is None:
        yield None
        return
    try:
        yield ProgressLine(members, place)
    finally:
        place.close()


def _is_first() -> bool:
    """Whether this is the main thread of a process that no other has made for its work."""
    main = threading.current_thread() is threading.main_thread()
    return main and multiprocessing.parent_process() is None


def _place(always: bool) -> Place | None:
    """A notebook, a terminal, or with ``always`` the lines of a file."""
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if getattr(shell, "kernel", None) is not None:
            return _Notebook()
    # Not what rich takes for a terminal: variables that ask for color make it of a file, too.
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _Terminal()
    return _Lines() if always else None


class _Terminal:
    """A bar on stderr, which is gone when the training is over."""

    interval = 0.5

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.completed:>6,}/{task.total:,}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[words]}", markup=False),
            console=Console(stderr=True, force_terminal=True),
            auto_refresh=False,
            transient=True,
            # What a user prints appears above the bar, but stays in a file that it is sent to.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )

    def draw(self, completed: int, total: int, text: str) -> None:
        if not self._bar.tasks:
            self._bar.add_task("", completed=completed, total=total, words=text)
            self._bar.start()  # which draws
        else:
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=completed, words=text, refresh=True)

    def close(self) -> None:
        self._bar.stop()


class _Notebook:
    """A bar in the output of a cell, which is gone when the training is over."""

    interval = 0.5

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html, self._display = HTML, display
        self._handle: Any = None

    def draw(self, completed: int, total: int, text: str) -> None:
        self._handle = self._handle or self._display(self._html(""), display_id=True)
        words = html.escape(f"{completed:,}/{total:,} steps  {text}")
        bar = f'<progress value="{completed}" max="{total}"></progress>'
        self._handle.update(self._html(f'{bar} <span style="white-space:pre">{words}</span>'))

    def close(self) -> None:
        if self._handle is not None:
            self._handle.update(self._html(""))


class _Lines:
    """A line of text on stderr now and then."""

    interval = 10.0

    def draw(self, completed: int, total: int, text: str) -> None:
        print(f"{completed:,}/{total:,} steps  {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean scores of several networks' rows."""
    columns = [f"{split}_{score}" for split in ("train", "test") for score in ("accuracy", "loss")]
    return {
        name: sum(row[name] for row in rows) / len(rows)
        for name in columns
        if rows and all(name in row for row in rows)
    }


def _clock(seconds: float) -> str:
    """Seconds as minutes and seconds, and hours where there are some.

    Example:
        >>> _clock(3725.4), _clock(65)
        ('1:02:05', '1:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
