"""The columns that trainings of a spec can have: a misspelt one would be looked for in vain.

A measure that is left out by ``monitor.measures`` still has columns here: a claim about it stays
open, and is no mistake.
"""

from __future__ import annotations

from collections.abc import Iterable

from grokscope.experiments.data_and_model import AnyDataSpec, ImportedDataSpec
from grokscope.spelling import unknown_name
from grokscope.training.measurements import MEASUREMENTS

_SCORES = tuple(
    f"{part}_{score}" for part in ("train", "test", "probe") for score in ("accuracy", "loss")
)
_GEOMETRY = ("capacity", "radius", "dimension", "center_correlation")
# of the measures with a memory: whole names, and what stands before a layer or a strength
_NAMED = ("robust_accuracy", "ntk_distance_init", "ntk_distance_previous")
_FAMILIES = (*_GEOMETRY, *(f"test_{name}" for name in _GEOMETRY), "linear_probe", "noise_accuracy")
_EXTREMES = ("_min", "_max")
_PARTS = {"modular": ("unseen_accuracy",)}  # of the test data


def misspelt_column(metric: str, data: Iterable[AnyDataSpec]) -> str | None:
    """What is wrong with a name that no training on one of ``data`` has as a column; else None."""
    sections = list(data)
    own = any(isinstance(section, ImportedDataSpec) for section in sections)
    if own and metric.endswith("_accuracy"):
        return None  # a data set of one's own has parts of any name
    parts = [part for section in sections for part in _PARTS.get(getattr(section, "name", ""), ())]
    names = (*_SCORES, *parts, *MEASUREMENTS, *_NAMED)
    family, slash, _ = metric.partition("/")
    whole = metric[: -len("_min")] if metric.endswith(_EXTREMES) else metric
    known = family in _FAMILIES if slash else metric in names or whole in MEASUREMENTS
    if known or metric.endswith("_seconds"):
        return None
    if slash:
        end = metric.removeprefix(family)
        return unknown_name("metric", metric, [f"{name}{end}" for name in _FAMILIES])
    return unknown_name("metric", metric, names)
