"""Feature learning as the tangent kernel and the centroid of one point show it.

GrokAlign (Walker et al. 2025), Figures 3 and 10. The point x is the first training example. For a
network with one output f and no biases, <x, centroid_x> = f(x), so that under gradient descent on
a mean loss it changes at the rate (Theorem 9)

    d <x, centroid_x> / dt = - sum_i K(x, x_i) dL / df(x_i)

with K the tangent kernel. While K stays as it was, learning is linear; feature learning is when K
changes. The paper shades the span of feature learning without saying where it begins and ends:
here it is where the mean of K(x, x_i) over the other points makes its change from 10 % to 90 % of
the largest, in a network in which it changes by half or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.centroid import centroid_inner_product
from grokscope.measures.ntk.empirical import empirical_ntk
from grokscope.training.objective import Objective

Column = NDArray[np.float64]

_BEGUN, _DONE = 0.1, 0.9
_LEAST_CHANGE = 0.5
_TIME = 1e-6
_NORMS = 101


def feature_learning(trained: AnalysisInput) -> dict[str, Any]:
    """When each arm learns features, and what its point's centroid does meanwhile.

    Returns:
        ``finding``: a sentence. ``spans``: start and end of feature learning by arm, the medians
        over seeds, without the arms that stay linear. ``table``: by title of arm, the medians of
        ``arms``. ``arms``: by arm, lists over seeds of

        - ``kernel_growth``: the largest mean kernel value over the initial one, by absolute value;
        - ``inner_product_share``, ``alignment_share``: how much of its rise a metric of the point
          makes within the span;
        - ``rank_correlation``: of mean kernel value and inner product over training;
        - ``rate_ratio``: the initial rate of the inner product, as a small step of gradient
          descent shows it, over that of Theorem 9.
    """
    run = trained.run
    spans, arms, table, found = {}, {}, {}, []
    for arm in run.arms:
        trajectories = [_trajectory(trained, arm, seed) for seed in run.seeds(arm)]
        metrics = {
            name: [trajectory[name] for trajectory in trajectories]
            for name in trajectories[0]
            if all(name in trajectory for trajectory in trajectories)
        }
        ends = {end: median(metrics.pop(end)) for end in ("start", "end") if end in metrics}
        if ends:
            spans[arm] = ends
        arms[arm] = metrics
        title = run.spec["arms"][arm]["title"] or arm
        table[title] = {name: median(values) for name, values in metrics.items()}
        learning = ["start" in trajectory for trajectory in trajectories]
        found.append(f"{title}: {kernel_words(table[title], learning)}")
    return {"finding": "; ".join(found), "spans": spans, "table": table, "arms": arms}


def kernel_words(metrics: Mapping[str, float], learning: Sequence[bool]) -> str:
    """What the kernel did, from medians over seeds, and for each seed whether it has a span."""
    if not any(learning):
        return "the kernel changed by less than half"
    if not all(learning):
        return f"the kernel changed by half or more with {sum(learning)} of {len(learning)} seeds"
    growth = metrics.get("kernel_growth", math.nan)
    # A kernel that shrinks or turns is at its largest at the start.
    grew = growth >= 1 + _LEAST_CHANGE
    words = f"the kernel grew {growth:.2g} times" if grew else "the kernel changed by half or more"
    if "alignment_share" not in metrics:
        return f"{words}, and alignment did not rise with every seed"
    share = 100 * metrics["alignment_share"]
    return f"{words}, and {share:.0f} % of the alignment's rise came with it"


def scaling(trained: AnalysisInput) -> dict[str, Any]:
    """How weight and output scale decide between linear and feature learning.

    An arm scales its weights or its outputs; one that scales neither counts as both.

    Returns:
        ``finding``: a sentence. ``points``: a mapping for each arm, seed and kind of scaling, with
        ``reciprocal_norm`` of the point's initial centroid, ``rate`` and ``measured_rate`` as of
        ``initial_rates``, and ``max_alignment`` over training. ``weights`` and ``outputs``: of
        those points ``rate_exponent``, the slope of log rate over log reciprocal norm;
        ``alignment_rank``, the rank correlation of largest alignment with scale; and
        ``alignment_drop``, the largest alignment at the smallest scale less that at the largest.
        ``outputs_over_weights``: lists over seeds of how much larger the largest alignment is with
        scaled outputs than with scaled weights, ``smallest_scale`` at the smallest scale of each
        and ``same_norm`` at the same norm of the point's initial centroid.
    """
    points = []
    for arm, seed in trained.run.trials:
        model = trained.run.spec["arms"][arm]["model"]
        history = trained.run.history(arm, seed)
        metrics = {
            "arm": arm,
            "seed": seed,
            "reciprocal_norm": 1 / float(history["point_centroid_norm"][0]),
            **initial_rates(trained, arm, seed),
            "max_alignment": float(np.nanmax(history["point_alignment"])),
        }
        scales = {"weights": model["weight_scale"], "outputs": model["output_scale"]}
        for scaled, scale in scales.items():
            if scale != 1 or all(value == 1 for value in scales.values()):
                points.append({"scaled": scaled, "scale": scale, **metrics})
    trends = {
        scaled: _trend([point for point in points if point["scaled"] == scaled])
        for scaled in ("weights", "outputs")
    }
    found = [
        f"from the smallest {scaled} to the largest, the largest alignment falls by "
        f"{trend['alignment_drop']:.2f}"
        for scaled, trend in trends.items()
        if "alignment_drop" in trend
    ]
    return {
        "finding": "; ".join(found).capitalize(),
        "points": points,
        **trends,
        "outputs_over_weights": outputs_over_weights(points),
    }


def outputs_over_weights(points: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """How much larger the largest alignment is with scaled outputs, seed by seed.

    At the same initial norm of the centroid the two are curves over the logarithm of its
    reciprocal, interpolated between scales; their distance is the mean over the norms that both
    reach.
    """
    found: dict[str, list[float]] = {}
    for seed in sorted({point["seed"] for point in points}):
        curves = {}
        for scaled in ("outputs", "weights"):
            own = [point for point in points if (point["scaled"], point["seed"]) == (scaled, seed)]
            own.sort(key=lambda point: point["reciprocal_norm"])
            if len({point["scale"] for point in own}) < 2:
                return {}
            smallest = min(own, key=lambda point: point["scale"])
            norm, alignment = (
                np.array([point[name] for point in own])
                for name in ("reciprocal_norm", "max_alignment")
            )
            curves[scaled] = (np.log(norm), alignment, smallest["max_alignment"])
        (x, outputs, first), (z, weights, second) = curves["outputs"], curves["weights"]
        shared = np.linspace(max(x[0], z[0]), min(x[-1], z[-1]), _NORMS)
        apart = np.interp(shared, x, outputs) - np.interp(shared, z, weights)
        found.setdefault("smallest_scale", []).append(float(first - second))
        found.setdefault("same_norm", []).append(float(apart.mean()))
    return found


def initial_rates(trained: AnalysisInput, arm: str, seed: int) -> dict[str, float]:
    """The rate of the point's inner product under gradient flow from the initial network.

    ``rate`` is computed from the tangent kernel (Theorem 9) and ``measured_rate`` from the inner
    products a small step of gradient descent forth and back; both in float64.
    """
    data = trained.data[arm].to(dtype=torch.float64)
    model = trained.initial(arm, seed).double()
    objective = Objective(trained.run.spec["arms"][arm]["training"]["loss"])
    parameters = dict(model.named_parameters())
    point = data.train_x[:1]

    outputs = model(data.train_x)
    loss = objective(outputs, objective.targets(data.train_y, outputs))
    slopes, *gradients = torch.autograd.grad(loss, [outputs, *parameters.values()])
    kernel = empirical_ntk(model, point, data.train_x, reduce="sum")

    def inner_product(time: float) -> float:
        moved = {
            name: parameter.detach() - time * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        return float(centroid_inner_product(lambda x: functional_call(model, moved, (x,)), point))

    return {
        "rate": -float(kernel @ slopes.flatten()),
        "measured_rate": (inner_product(_TIME) - inner_product(-_TIME)) / (2 * _TIME),
    }


def _trajectory(trained: AnalysisInput, arm: str, seed: int) -> dict[str, float]:
    """The metrics of one training; those of the span only where there is one."""
    history = trained.run.history(arm, seed)
    measured = ~np.isnan(history["point_ntk"])
    kernel, inner, alignment = (
        history[name][measured] for name in ("point_ntk", "point_inner_product", "point_alignment")
    )
    steps = history.steps[measured]
    rates = initial_rates(trained, arm, seed)
    metrics = {
        "kernel_growth": float(np.abs(kernel).max() / abs(kernel[0])),
        "rank_correlation": rank_correlation(kernel, inner),
        "rate_ratio": rates["measured_rate"] / rates["rate"],
    }
    span = kernel_span(kernel)
    if span is not None:
        start, end = span
        metrics |= {
            "start": float(steps[start]),
            "end": float(steps[end]),
            "inner_product_share": _share(inner, start, end),
            "alignment_share": _share(alignment, start, end),
        }
    return _finite(metrics)


def kernel_span(kernel: Column) -> tuple[int, int] | None:
    """Where a kernel makes its largest change: from a tenth to nine tenths, by index.

    None where it changes by less than half of its first value.
    """
    change = kernel - kernel[0]
    largest = int(np.abs(change).argmax())
    if abs(change[largest]) < _LEAST_CHANGE * abs(kernel[0]):
        return None
    made = change[: largest + 1] / change[largest]
    return int(np.flatnonzero(made < _BEGUN)[-1]) + 1, int(np.flatnonzero(made >= _DONE)[0])


def _share(column: Column, start: int, end: int) -> float:
    """How much of the rise from its first to its largest value a column makes from start to end."""
    return float((column[end] - column[start]) / (column.max() - column[0]))


def _trend(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How rate and alignment go with scale, over points of one kind of scaling."""
    if len({point["scale"] for point in points}) < 2:
        return {}
    by_scale = sorted(points, key=lambda point: point["scale"])
    scale, alignment = (
        np.array([point[name] for point in by_scale]) for name in ("scale", "max_alignment")
    )
    ends = [float(alignment[scale == end].mean()) for end in (scale[0], scale[-1])]
    trend = {
        "alignment_rank": rank_correlation(scale, alignment),
        "alignment_drop": ends[0] - ends[1],
    }
    rising = [point for point in points if point["rate"] > 0]
    if len(rising) > 1:
        x, y = (np.log([point[name] for point in rising]) for name in ("reciprocal_norm", "rate"))
        trend["rate_exponent"] = float(np.polyfit(x, y, 1)[0])
    return _finite(trend)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without metrics that do not exist, as the correlation with a constant."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def rank_correlation(a: Column, b: Column) -> float:
    """Spearman's: the correlation of ranks, equal values sharing theirs.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 5.0]), np.array([-1.0, -8.0, -9.0]))
        -1.0
    """
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1].round(12))


def _ranks(values: Column) -> Column:
    return np.array([((values < v).sum() + (values <= v).sum()) / 2 for v in values])
