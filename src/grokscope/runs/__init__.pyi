"""The run-directory format: write, read, resume."""

from grokscope.runs.directory import RunDirectory, Trial
from grokscope.runs.files import RunError
from grokscope.runs.group import TrialGroup
from grokscope.runs.history import History
from grokscope.runs.later_rows import LaterRows
from grokscope.runs.reader import Run
from grokscope.runs.seed_runs import SeedRuns
from grokscope.runs.sweep_folder import SweepFolder, open_runs

__all__ = [
    "History",
    "LaterRows",
    "Run",
    "RunDirectory",
    "RunError",
    "SeedRuns",
    "SweepFolder",
    "Trial",
    "TrialGroup",
    "open_runs",
]
