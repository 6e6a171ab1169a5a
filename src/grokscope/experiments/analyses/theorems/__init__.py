"""The statements of GrokAlign (Walker et al. 2025), each held against random networks.

A check returns a ``Finding``: the statement as we read it, under which condition, and its largest
deviation over the networks. Where a statement needs a condition that the paper does not name, a
second finding shows what happens without it.
"""

from __future__ import annotations

from typing import Any

import torch

from grokscope.experiments.analyses.theorems.cells import centroid_findings
from grokscope.experiments.analyses.theorems.finding import Finding
from grokscope.experiments.analyses.theorems.kernel import kernel_findings
from grokscope.experiments.analyses.theorems.optimum import optimum_findings
from grokscope.experiments.analyses.theorems.radius import radius_findings
from grokscope.experiments.analysis_input import AnalysisInput


def theorems(trained: AnalysisInput, *, networks: int = 20, seed: int = 0) -> dict[str, Any]:
    """Every statement with its largest deviation over random networks; nothing is trained.

    Args:
        trained: not looked at; an experiment without arms.
        networks: random networks, or maps, for each statement.
        seed: of all that is drawn.

    Returns:
        ``theorems``: rows of a table; ``deviations``: by the statements' short names;
        ``finding``: a sentence.
    """
    if networks < 1:
        raise ValueError(f"networks must be a positive integer: got {networks}")
    findings: list[Finding] = []
    for check in (optimum_findings, radius_findings, centroid_findings, kernel_findings):
        findings += check(networks, torch.Generator().manual_seed(seed))
    stated = [finding for finding in findings if not finding.counterexample]
    held = sum(finding.held for finding in stated)
    return {
        "finding": (
            f"{held} of {len(stated)} statements held over {networks} random networks each; "
            f"{len(findings) - len(stated)} more rows show what happens without a condition"
        ),
        "theorems": [finding.row() for finding in findings],
        "deviations": {finding.key: finding.deviation for finding in findings},
    }
