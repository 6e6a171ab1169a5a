"""Signals that end a command: what was recorded is kept, and the exit code is 128 + the signal.

A signal becomes a ``KeyboardInterrupt``, so that a run notes in its status that it was interrupted,
and a download removes its part. Within an import nothing of that is at work yet, and an exception
may leave the imported module in halves, or come out of it as another one: there the process ends.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_SAID = "interrupted; what was recorded is kept, go on with --resume; a sweep by the same command"


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


_RECEIVED: list[Interrupted] = []


def take_interruption() -> Interrupted | None:
    """The first signal that has come, if any, once: the caller tells of it, and nothing else."""
    first = _RECEIVED[0] if _RECEIVED else None
    _RECEIVED.clear()
    return first


def said(error: BaseException) -> tuple[str, int]:
    """What to say of an interruption, and the exit code."""
    name = str(error)
    by = f" by {name}" if name and name != "SIGINT" else ""
    return _SAID.replace("interrupted", f"interrupted{by}", 1), getattr(error, "code", 130)


def end_on_signals() -> None:
    """Let Ctrl-C, a polite end and the loss of the terminal interrupt this process.

    A signal that the process was started to ignore, as by ``nohup``, stays ignored.
    """
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def end_at_once_on_signals() -> None:
    """From now on a signal ends this process as it does any other: all is written and told."""
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    error = Interrupted(number)
    _RECEIVED.append(error)
    if _is_importing(frame):
        message, code = said(error)
        os.write(2, f"grokscope: {message.partition(';')[0]}\n".encode())
        os._exit(code)
    raise error


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
