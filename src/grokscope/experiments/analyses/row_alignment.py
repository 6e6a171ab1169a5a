"""How far the rows of trained networks' Jacobians point along or against their inputs (Table 2).

For an input x and the Jacobian A of the k outputs at x, the cosines of the k rows with x have a
largest and a smallest: Theorem 2 of the GrokAlign paper says that the rows of an optimal network
are parallel to x, that of the right class along it and the others against it, so that the one
should tend to 1 and the other to -1. Table 2 has them; whether as means over points or as extremes
over all points its text does not say, so both are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.findings.statistics import SeedValues
from grokscope.measures.jacobian import jacobian_alignment

_CHUNK = 250
_LARGEST, _SMALLEST = ("max", "all_max"), ("min", "all_min")
_VALUES = ("test_accuracy", "max", "min", "test_max", "test_min", "all_max", "all_min")


def row_alignment(
    trained: AnalysisInput,
    *,
    points: int = 1000,
    against: Mapping[str, str] | None = None,
    published: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The largest and smallest cosine of a Jacobian's rows with the input, mean over points.

    Args:
        trained: the trained networks, as they are at their last step.
        points: how many training points, and how many test points.
        against: for an arm the arm that it is compared with.
        published: for an arm the smallest and the largest cosine of the paper's table.

    Returns:
        ``table``: a row for each arm, means over seeds with their deviations, over training points
        (``max``, ``min``) and test points (``test_max``, ``test_min``), and the extremes over all
        training points (``all_max``, ``all_min``); ``by_seed``: the same values as lists;
        ``gain``: for each arm of ``against`` how much larger ``max`` and ``all_max`` and how much
        smaller ``min`` and ``all_min`` are, seed by seed.
    """
    by_seed: dict[str, dict[str, list[float]]] = {}
    for arm in trained.data:
        rows = [_values(trained, arm, seed, points) for seed in trained.run.seeds(arm)]
        by_seed[arm] = {name: [row[name] for row in rows] for name in _VALUES}
    return {
        "table": [_row(trained, arm, by_seed[arm], published or {}) for arm in by_seed],
        "by_seed": by_seed,
        "gain": {
            arm: {
                **{
                    name: _differences(by_seed[arm][name], by_seed[other][name])
                    for name in _LARGEST
                },
                **{
                    name: _differences(by_seed[other][name], by_seed[arm][name])
                    for name in _SMALLEST
                },
            }
            for arm, other in (against or {}).items()
        },
    }


def extremes(model: nn.Module, x: Tensor) -> dict[str, float]:
    """The largest and the smallest cosine of the Jacobian's rows with x.

    Returns:
        ``max`` and ``min``, of each point, the means over points; ``all_max`` and ``all_min``, of
        all points.
    """
    cosines = jacobian_alignment(model, x, chunk_size=_CHUNK)
    return {
        "max": float(cosines.amax(1).mean()),
        "min": float(cosines.amin(1).mean()),
        "all_max": float(cosines.max()),
        "all_min": float(cosines.min()),
    }


def _values(trained: AnalysisInput, arm: str, seed: int, points: int) -> dict[str, float]:
    data, model = trained.data[arm], trained.model(arm, seed)
    test = extremes(model, data.test_x[:points])
    return {
        "test_accuracy": float(trained.run.history(arm, seed)["test_accuracy"][-1]),
        **extremes(model, data.train_x[:points]),
        "test_max": test["max"],
        "test_min": test["min"],
    }


def _row(
    trained: AnalysisInput,
    arm: str,
    values: Mapping[str, list[float]],
    published: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    smallest, largest = published.get(arm, (None, None))
    seeds = trained.run.seeds(arm)
    return {
        "arm": arm,
        "title": trained.run.spec["arms"][arm].get("title") or arm,
        "seeds": len(seeds),
        "steps": max(int(trained.run.history(arm, seed).steps[-1]) for seed in seeds),
        **{name: fmean(of) for name, of in values.items()},
        **{f"{name}_deviation": SeedValues.exact(of).std for name, of in values.items()},
        "paper_max": largest,
        "paper_min": smallest,
    }


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]
