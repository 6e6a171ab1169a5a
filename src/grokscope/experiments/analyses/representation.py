"""What Zheng et al. 2024 show that is computed once training is over.

*Delays in generalization match delayed changes in representational geometry* (UniReps 2024). What
is the figure's own stands in a file of its own; here the parts that a spec asks for come together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from grokscope.experiments.analyses.correlations import (
    KERNEL,
    correlations,
    geometry_layers,
    last_value,
)
from grokscope.experiments.analyses.distribution_shift import distribution_shift
from grokscope.experiments.analyses.embeddings import embeddings
from grokscope.experiments.analyses.kernel_points import kernel_points
from grokscope.experiments.analyses.late_compression import late_compression
from grokscope.experiments.analyses.probing import probing
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.findings import onset
from grokscope.findings.onset import over_seeds
from grokscope.runs import History, Run


def representation(
    trained: AnalysisInput,
    probe: Mapping[str, Any] | None = None,
    kernels: Mapping[str, Any] | None = None,
    shift: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Onsets, correlations and the late compression; probes, kernels and pictures where asked for.

    Args:
        trained: the trained networks.
        probe: arguments of ``probing``; None for no probes.
        kernels: arguments of ``kernel_points``; None for none.
        shift: arguments of ``distribution_shift``; None for no probes on other data.
        embed: arguments of ``embeddings``; None for none.

    Returns:
        ``finding``: a sentence. ``onsets``: a row for each arm and seed. ``onset_spread``:
        by arm, the latest start of an onset over the earliest, where two or more seeds have one.
        ``kernel_spread``: the same of the last distance of the kernel from the initial one.
        ``delay_order``: by pairs of arms, the median delay of the first over that of the second,
        in units of the memorization step. ``capacity_by_layer``: by arm, ``last_over_first``, the
        capacity of the last layer over that of the first at the last evaluation (a list over
        seeds). And what the parts return.
    """
    results = found_in_rows(trained.run)
    if probe is not None:
        results |= probing(trained, **probe)
    if kernels is not None:
        results |= kernel_points(trained, **kernels)
    if shift is not None:
        results |= distribution_shift(trained, **shift)
    if embed is not None and (reason := embeddings(trained, **embed)):
        results["no_embedding"] = reason
    return results


def found_in_rows(run: Run) -> dict[str, Any]:
    """The part of the results that no network is needed for: rows of the run are enough."""
    return {
        "finding": _finding(run),
        "onsets": _onsets(run),
        "onset_spread": _spread(run, lambda history: onset(history).start),
        "kernel_spread": _spread(run, lambda history: last_value(history, KERNEL)),
        "delay_order": _delay_order(run),
        "capacity_by_layer": _capacity_by_layer(run),
        **correlations(run),
        **late_compression(run),
    }


def _onsets(run: Run) -> list[dict[str, Any]]:
    """When each training generalized, a row each."""
    rows = []
    for arm, seed in run.trials:
        found = onset(run.history(arm, seed))
        rows.append(
            {
                "arm": run.spec["arms"][arm].get("title") or arm,
                "seed": seed,
                "generalization": "delayed, still rising"
                if found.state == "delayed" and found.rising
                else found.state,
                "memorized": found.memorized,
                "start": found.start,
                "middle": found.middle,
                "end": found.end,
                "before": _known(found.before),
                "after": _known(found.after),
            }
        )
    return rows


def _spread(run: Run, value: Callable[[History], float | None]) -> dict[str, float]:
    """By arm, the largest of a value over seeds over the least, where two or more seeds have it."""
    values = {
        arm: [
            found
            for seed in run.seeds(arm)
            if (found := value(run.history(arm, seed))) is not None and found > 0
        ]
        for arm in run.arms
    }
    return {arm: max(of) / min(of) for arm, of in values.items() if len(of) > 1}


def _delay_order(run: Run) -> dict[str, dict[str, float]]:
    """The delay of each arm over that of each other, where both have generalized."""
    delays: dict[str, float] = {}
    for arm in run.arms:
        found = [onset(run.history(arm, seed)).delay for seed in run.seeds(arm)]
        known = [delay for delay in found if delay is not None]
        if found and len(known) == len(found):
            delays[arm] = median(known)
    return {
        arm: {other: delay / delays[other] for other in delays if other != arm}
        for arm, delay in delays.items()
    }


def _capacity_by_layer(run: Run) -> dict[str, dict[str, list[float]]]:
    found: dict[str, list[float]] = {}
    for arm, seed in run.trials:
        history = run.history(arm, seed)
        layers = geometry_layers(history)
        ends = [last_value(history, f"test_capacity/{layer}") for layer in layers[:1] + layers[-1:]]
        if len(ends) == 2 and ends[0] and ends[1]:
            found.setdefault(arm, []).append(ends[1] / ends[0])
    return {arm: {"last_over_first": ratios} for arm, ratios in found.items()}


def _known(value: float) -> float | None:
    return value if value == value else None


def _finding(run: Run) -> str:
    """What each arm did, in words."""
    parts = []
    for arm in run.arms:
        found = [onset(run.history(arm, seed)) for seed in run.seeds(arm)]
        title = run.spec["arms"][arm].get("title") or arm
        state, seeds = Counter(one.state for one in found).most_common(1)[0]
        if 2 * seeds <= len(found):
            words = "its seeds differ"
        elif state == "delayed":
            start, memorized = (
                over_seeds(found, moment).median.text() for moment in ("start", "memorized")
            )
            words = f"generalizes from step {start}, memorized at {memorized}"
        else:
            words = {
                "no delay": "generalizes without delay",
                "never": "has not generalized",
                "fitting": "has not memorized",
            }.get(state, "is not decided")
        parts.append(f"{title}: {words}")
    return "; ".join(parts)
