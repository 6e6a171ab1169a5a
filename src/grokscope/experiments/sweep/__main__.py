"""One run of a sweep as a process: ``python -m grokscope.experiments.sweep JOB``, a job as JSON."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from grokscope.data import DataError
from grokscope.experiments.sweep.engine import Job
from grokscope.experiments.sweep.processes import BUSY, INTERRUPTED
from grokscope.experiments.sweep.work import work
from grokscope.runs import RunError


def main(text: str) -> int:
    """Work on the job, and return the exit code."""
    # Ended politely, a run says in its status that it was interrupted.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        return 0 if work(Job(**json.loads(text))) else BUSY
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RunError, DataError, ValueError) as error:
        print(f"grokscope: {error}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
