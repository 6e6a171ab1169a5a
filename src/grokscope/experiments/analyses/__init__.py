"""What experiments compute from trained networks: functions from ``Trained`` to results.json.

Further arguments are the spec's ``analysis_options``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grokscope.experiments.analyses.feature_learning import feature_learning, scaling
from grokscope.experiments.analyses.regions import regions_around_points
from grokscope.experiments.analyses.representation import representation

ANALYSES: dict[str, Callable[..., dict[str, Any]]] = {
    "feature_learning": feature_learning,
    "regions": regions_around_points,
    "representation": representation,
    "scaling": scaling,
}
