"""A worker of a sweep: ``python -m grokscope.experiments.sweep`` takes jobs, a line of JSON each.

It answers each with a line, the code of how the job ended. What a job prints goes to its own log.
A run that fails in a way that is not foreseen ends the worker, so that no other meets what it may
have left; so does the end of the lines, once the job in work is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch

from grokscope.data import DataError
from grokscope.experiments.sweep.engine import Job
from grokscope.experiments.sweep.processes import BUSY, FAILED, INTERRUPTED
from grokscope.experiments.sweep.work import work
from grokscope.runs import RunError
from grokscope.runs.side_files import LOG


def main() -> int:
    """Work on jobs until there are no more, and return the exit code."""
    # Ended politely, a run says in its status that it was interrupted.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    fresh = torch.initial_seed()
    try:
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as answers:
            for line in sys.stdin:
                # Each begins with the random state of a process of its own.
                torch.manual_seed(fresh)
                answers.write(b"%d\n" % _code(Job(**json.loads(line))))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the sweep was killed, and this was the last job
        return 0
    return 0


def _code(job: Job) -> int:
    """Work on a job, with what is printed in its log; the code of how it ended."""
    with (job.run / LOG).open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    try:
        return 0 if work(job) else BUSY
    except (RunError, DataError, ValueError) as error:
        print(f"grokscope: {error}", file=sys.stderr)
        return FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
