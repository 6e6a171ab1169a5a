"""What the rows of runs say: onsets, times to target, statistics over seeds, claims."""

from grokscope.findings.claims import Claim, Verdict, judge, verdicts
from grokscope.findings.onset import Onset, onset
from grokscope.findings.statistics import Bounds, Sample

__all__ = [
    "Bounds",
    "Claim",
    "Onset",
    "Sample",
    "Verdict",
    "judge",
    "onset",
    "verdicts",
]
