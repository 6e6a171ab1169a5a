"""What analyses need of trainings: known before these begin, and missed only once they are over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

# Analyses that look at kept checkpoints, and the options that make them do so; () for always.
_CHECKPOINTS: dict[str, tuple[str, ...]] = {
    "modular_arithmetic": (),
    "regions": (),
    "representation": ("probe", "kernels", "shift", "embed"),
}
_MEASURES: dict[str, tuple[str, ...]] = {
    "feature_learning": ("point_ntk", "point_inner_product", "point_alignment"),
    "jacobian_spectrum": ("jacobian_pc1",),
    "scaling": ("point_centroid_norm", "point_alignment"),
}


def missing_option(analysis: Callable[..., Any], options: Mapping[str, Any]) -> str | None:
    """The first option that an analysis cannot do without and was not given."""
    own = list(signature(analysis).parameters.values())[1:]
    needed = [each.name for each in own if each.default is Parameter.empty]
    return next((name for name in needed if name not in options), None)


def looks_at_checkpoints(analysis: str, options: Mapping[str, Any], arm: str) -> str | None:
    """What looks at the kept checkpoints of an arm: the analysis, or an option; None for none."""
    if analysis not in _CHECKPOINTS:
        return None
    if not (own := _CHECKPOINTS[analysis]):
        return f"the analysis {analysis}"
    for option in own:
        asked = options.get(option)
        if asked is not None and arm in ((isinstance(asked, dict) and asked.get("arms")) or [arm]):
            return f"{option} of the analysis {analysis}"
    return None


def measures_needed(analysis: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that an analysis reads of every training."""
    if analysis == "trajectory":
        return (str(options["metric"]),)
    return _MEASURES.get(analysis, ())
