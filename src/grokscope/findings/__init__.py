"""What the rows of runs say: onsets, times to target, statistics over seeds, claims."""

from grokscope.findings.claims import Claim, Verdict, judge, verdicts
from grokscope.findings.onset import Onset, onset
from grokscope.findings.statistics import Interval, SeedValues
from grokscope.findings.target import Target

__all__ = [
    "Claim",
    "Interval",
    "Onset",
    "SeedValues",
    "Target",
    "Verdict",
    "judge",
    "onset",
    "verdicts",
]
