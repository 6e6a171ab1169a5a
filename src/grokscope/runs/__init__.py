"""The run-directory format: write, read, resume."""

from grokscope.runs.claims import Claim, Verdict, judge, verdicts
from grokscope.runs.directory import RunDirectory
from grokscope.runs.files import RunError
from grokscope.runs.group import TrialGroup
from grokscope.runs.history import History
from grokscope.runs.onset import Onset, onset
from grokscope.runs.reader import Run
from grokscope.runs.trial import Trial

__all__ = [
    "Claim",
    "History",
    "Onset",
    "Run",
    "RunDirectory",
    "RunError",
    "Trial",
    "TrialGroup",
    "Verdict",
    "judge",
    "onset",
    "verdicts",
]
