"""What the rows of runs say: onsets, times to target, statistics over seeds, claims."""

from grokscope.findings.claims import Claim, Verdict, judge, verdicts
from grokscope.findings.onset import Onset, onset
from grokscope.findings.phase import Phase, phase, phases
from grokscope.findings.settled import StopWhenSettled
from grokscope.findings.statistics import Interval, SeedValues
from grokscope.findings.target import Target

__all__ = [
    "Claim",
    "Interval",
    "Onset",
    "Phase",
    "SeedValues",
    "StopWhenSettled",
    "Target",
    "Verdict",
    "judge",
    "onset",
    "phase",
    "phases",
    "verdicts",
]
