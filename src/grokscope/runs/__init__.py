"""The run-directory format: write, read, resume."""

from grokscope.runs.claims import Claim, Verdict, judge, verdicts
from grokscope.runs.directory import RunDirectory
from grokscope.runs.files import RunError
from grokscope.runs.group import TrialGroup
from grokscope.runs.history import History
from grokscope.runs.onset import Onset, onset
from grokscope.runs.reader import Run
from grokscope.runs.seed_runs import SeedRuns
from grokscope.runs.statistics import Bounds, Sample
from grokscope.runs.sweep_folder import SweepFolder, open_runs
from grokscope.runs.trial import Trial

__all__ = [
    "Bounds",
    "Claim",
    "History",
    "Onset",
    "Run",
    "RunDirectory",
    "RunError",
    "Sample",
    "SeedRuns",
    "SweepFolder",
    "Trial",
    "TrialGroup",
    "Verdict",
    "judge",
    "onset",
    "open_runs",
    "verdicts",
]
