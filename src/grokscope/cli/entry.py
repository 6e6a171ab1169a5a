"""Where the command line begins and ends: signals, streams and mistakes, each one line on stderr.

The exit code is 2 for a mistake, 1 where a claim does not hold or a run failed, and 128 + N for a
signal N.
"""

from __future__ import annotations

import os
import sys

from grokscope.cli.interruption import end_at_once_on_signals, end_on_signals, said
from grokscope.spelling import shortened

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Storage size calculation overflowed",
)


def main() -> None:
    """Run the command line."""
    end_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no sign for a letter shows another in its place.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    code = _run()
    end_at_once_on_signals()  # a second Ctrl-C would be a traceback out of some finalizer
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _without_output(error)
    sys.exit(code)


def _run() -> int:
    from grokscope.cli.app import run_app
    from grokscope.runs.files import RunError

    try:
        return run_app()
    except KeyboardInterrupt as error:
        return _fail(*said(error))
    except BrokenPipeError as error:
        return _without_output(error)
    except (RunError, ValueError) as error:
        return _fail(str(error))
    except OSError as error:
        if error.filename is None:
            return _without_output(error)
        name = shortened(os.fsdecode(error.filename), 200)
        return _fail(f"could not use {name}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(of in text for of in _OUT_OF_MEMORY):
            raise
        first = text.partition("\n")[0][:300] or "no more is to be had"
        return _fail(f"out of memory: {first}; a smaller network, batch or probe may fit")


def _without_output(error: OSError) -> int:
    """End where stdout takes no more: silently if its reader has gone."""
    # What is still in the buffer would be tried again, and complained of, at the very end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1  # as click has it
    return _fail(f"could not write the output: {error.strerror or error}")


def _fail(message: str, code: int = 2) -> int:
    from grokscope.cli.console import fail

    return fail(message, code)
