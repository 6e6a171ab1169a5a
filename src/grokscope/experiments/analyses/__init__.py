"""What experiments compute from trained networks: functions from ``AnalysisInput`` to results.json.

Further arguments are the spec's ``analysis_options``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grokscope.experiments.analyses.feature_learning import feature_learning, scaling
from grokscope.experiments.analyses.jacobian_spectrum import jacobian_spectrum
from grokscope.experiments.analyses.modular_arithmetic import modular_arithmetic
from grokscope.experiments.analyses.regions import regions_around_points
from grokscope.experiments.analyses.representation import representation
from grokscope.experiments.analyses.robustness import robustness
from grokscope.experiments.analyses.row_alignment import row_alignment
from grokscope.experiments.analyses.theorems import theorems
from grokscope.experiments.analyses.trajectory import trajectory

ANALYSES: dict[str, Callable[..., dict[str, Any]]] = {
    "trajectory": trajectory,
    "feature_learning": feature_learning,
    "jacobian_spectrum": jacobian_spectrum,
    "modular_arithmetic": modular_arithmetic,
    "regions": regions_around_points,
    "representation": representation,
    "robustness": robustness,
    "row_alignment": row_alignment,
    "scaling": scaling,
    "theorems": theorems,
}
