"""Measuring snapshots of a network in a second process, while the first one trains on.

The process is loky's, as in joblib: networks and functions defined in a script or a notebook reach
it, and the script needs no guard around its main part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from grokscope.training.archive import MemoryArchive
from grokscope.training.snapshot import Receiver, Sender, Snapshot

if TYPE_CHECKING:
    from grokscope.training.measure_with_memory import MeasureWithMemory

_MOST = 4  # snapshots that wait; the next one waits for the first to be measured


@runtime_checkable
class Measurer(Protocol):
    """What goes to the process: a monitor that measures the network it holds."""

    model: nn.Module
    archive: Any

    def measure(self, step: int) -> dict[str, float]:
        """The figures of the network as it is now."""

    def with_memory(self) -> Sequence[MeasureWithMemory]:
        """Its measures that remember."""


@dataclass
class _Changes:
    """What a call in the process returned, and the tensors that it kept and dropped."""

    figures: dict[str, float]
    kept: dict[str, dict[str, Tensor]]
    dropped: list[str]


@dataclass
class _Entry:
    """A row that is to come: what is known of it, and its measurement where it has one."""

    row: dict[str, Any]
    measured: Future[_Changes] | None


class SecondProcess:
    """Measures a network's snapshots one after the other; rows come out in the order of steps.

    Args:
        measurer: a monitor of the network, without hooks; the process gets a copy.

    Raises:
        TypeError: if the network or a measure cannot be sent to another process.
    """

    def __init__(self, measurer: Measurer) -> None:
        from joblib.externals.loky import ProcessPoolExecutor  # 0.1 s, and few need it

        self._sender = Sender()
        sent = self._snapshot(measurer)
        self._pool = ProcessPoolExecutor(max_workers=1)
        self._waiting: deque[_Entry] = deque()
        try:
            self._pool.submit(_begin, sent, torch.get_num_threads()).result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            self._pool.shutdown(wait=False, kill_workers=True)
            raise _unsendable(error) from error

    def measure(self, row: dict[str, Any], model: nn.Module) -> None:
        """Have a snapshot of the network measured; where too many wait, wait for the first.

        Args:
            row: the row so far, ``row["step"]`` among it; it wins over what is measured.
            model: the network as it is now.

        Raises:
            TypeError: if it has become one that cannot be sent.
        """
        waiting = [entry.measured for entry in self._waiting if entry.measured is not None]
        if len(waiting) >= _MOST:
            wait_for(waiting[:1])
        step = row["step"]
        with _telling(step):
            measured = self._pool.submit(_measure, step, self._snapshot(model))
        self._waiting.append(_Entry(row, measured))

    def add(self, row: dict[str, Any]) -> None:
        """Put a row without a measurement behind those that wait."""
        self._waiting.append(_Entry(row, None))

    def arrived(self, archive: Any, *, wait: bool) -> Iterator[tuple[dict[str, Any], bool]]:
        """The next rows that are complete, and whether each was measured.

        Args:
            archive: where the tensors of their measurements go.
            wait: wait for those that are still being measured.

        Raises:
            RuntimeError: if the process was ended from outside.
        """
        while self._waiting:
            entry = self._waiting[0]
            if entry.measured is not None and not (wait or entry.measured.done()):
                return
            self._waiting.popleft()
            if entry.measured is None:
                yield entry.row, False
                continue
            with _telling(entry.row["step"]):
                changes = entry.measured.result()
            for name in changes.dropped:
                archive.drop_arrays(name)
            for name, arrays in changes.kept.items():
                archive.save_arrays(name, arrays)
            yield {**entry.row, **changes.figures, **entry.row}, True

    def memory(self) -> dict[str, Any]:
        """What the monitor's measures remember there, by name, beside history and archive."""
        with _telling():
            return self._pool.submit(_memory).result()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._pool.shutdown(wait=True, kill_workers=True)

    def _snapshot(self, thing: Any) -> Snapshot:
        try:
            return self._sender.snapshot(thing)
        except Exception as error:
            raise _unsendable(error) from error


def _unsendable(error: Exception) -> TypeError:
    reason = " ".join(str(error.__cause__ or error).split())
    return TypeError(
        "asynchronous=True sends model and measures to a second process, which these cannot be "
        f"sent to ({reason[:200]}); use asynchronous=False"
    )


@contextmanager
def _telling(step: int | None = None) -> Iterator[None]:
    """Say what happened where the process has ended."""
    try:
        yield
    except BrokenProcessPool as error:
        where = "" if step is None else f" at step {step}"
        raise RuntimeError(
            f"the process that measures ended{where}, killed or out of memory; the rows before "
            "are in the history"
        ) from error


class _Noting(MemoryArchive):
    """An archive that notes what changes, to tell the first process."""

    def __init__(self, kept: Mapping[str, dict[str, Tensor]]) -> None:
        super().__init__()
        self.kept.update(kept)
        self.saved: dict[str, dict[str, Tensor]] = {}
        self.dropped: list[str] = []

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        super().save_arrays(name, arrays)
        self.saved[name] = self.kept[name]

    def drop_arrays(self, name: str) -> None:
        super().drop_arrays(name)
        self.saved.pop(name, None)
        self.dropped.append(name)

    def told(self) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
        """What changed since the last call."""
        saved, dropped = self.saved, self.dropped
        self.saved, self.dropped = {}, []
        return saved, dropped


_HERE: list[tuple[Measurer, Receiver]] = []  # in the second process: its monitor


def _begin(sent: Snapshot, threads: int) -> None:
    torch.set_num_threads(threads)  # sums of other lengths round otherwise
    receiver = Receiver()
    measurer: Measurer = receiver.receive(sent)
    measurer.archive = _Noting(measurer.archive.kept)
    _HERE[:] = [(measurer, receiver)]


def _measure(step: int, sent: Snapshot) -> _Changes:
    ((measurer, receiver),) = _HERE
    receiver.receive(sent)  # the monitor's network is the one of these numbers
    figures = measurer.measure(step)
    return _Changes(figures, *measurer.archive.told())


def _memory() -> dict[str, Any]:
    ((measurer, _),) = _HERE
    return {own.name: own.state_dict() for own in measurer.with_memory()}
