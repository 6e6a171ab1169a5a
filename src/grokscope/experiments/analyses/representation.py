"""The figures of Zheng et al. 2024 that are computed once training is over.

*Delays in generalization match delayed changes in representational geometry* (UniReps 2024). What
is the figure's own stands in a file of its own; here the parts that a spec asks for come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from grokscope.experiments.analyses.correlations import correlations
from grokscope.experiments.analyses.embeddings import embeddings
from grokscope.experiments.analyses.kernel_points import kernel_points
from grokscope.experiments.analyses.late_compression import late_compression
from grokscope.experiments.analyses.probing import probing
from grokscope.experiments.trained import Trained
from grokscope.findings import onset
from grokscope.runs import Run


def representation(
    trained: Trained,
    probe: Mapping[str, Any] | None = None,
    kernels: Mapping[str, Any] | None = None,
    embed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Onsets, correlations and the late compression; probes, kernels and pictures where asked for.

    Args:
        trained: the trained networks.
        probe: arguments of ``probing``; None for no probes.
        kernels: arguments of ``kernel_points``; None for none.
        embed: arguments of ``embeddings``; None for none.

    Returns:
        ``finding``: a sentence. ``onsets``: a row for each arm and seed. ``onset_spread``:
        by arm, the latest start of an onset over the earliest, where two or more seeds have one.
        And what the parts return.
    """
    run = trained.run
    results = {
        "finding": _finding(run),
        "onsets": _onsets(run),
        "onset_spread": _spread(run),
        **correlations(run),
        **late_compression(run),
    }
    if probe is not None:
        results |= probing(trained, **probe)
    if kernels is not None:
        results |= kernel_points(trained, **kernels)
    if embed is not None and (reason := embeddings(trained, **embed)):
        results["no_embedding"] = reason
    return results


def _onsets(run: Run) -> list[dict[str, Any]]:
    """When each training generalised, a row each."""
    rows = []
    for arm, seed in run.trials:
        found = onset(run.history(arm, seed))
        rows.append(
            {
                "arm": run.spec["arms"][arm].get("title") or arm,
                "seed": seed,
                "generalisation": "delayed, still rising"
                if found.state == "delayed" and found.rising
                else found.state,
                "memorised": found.memorised,
                "start": found.start,
                "middle": found.middle,
                "end": found.end,
                "before": _known(found.before),
                "after": _known(found.after),
            }
        )
    return rows


def _spread(run: Run) -> dict[str, float]:
    """By arm, how many times as late the latest onset is as the earliest."""
    starts = {
        arm: [
            start
            for seed in run.seeds(arm)
            if (start := onset(run.history(arm, seed)).start) is not None
        ]
        for arm in run.arms
    }
    return {arm: max(steps) / min(steps) for arm, steps in starts.items() if len(steps) > 1}


def _known(value: float) -> float | None:
    return value if value == value else None


def _finding(run: Run) -> str:
    """What each arm did, in words."""
    parts = []
    for arm in run.arms:
        found = [onset(run.history(arm, seed)) for seed in run.seeds(arm)]
        title = run.spec["arms"][arm].get("title") or arm
        late = [one for one in found if one.start is not None]
        if len(late) > len(found) / 2:
            start, memorised = (
                median(one.at(moment) or 0.0 for one in late) for moment in ("start", "memorised")
            )
            words = f"generalises from step {start:,.0f}, memorised at {memorised:,.0f}"
        else:
            state = max((one.state for one in found), key=[one.state for one in found].count)
            words = {
                "no delay": "generalises without delay",
                "never": "has not generalised",
                "fitting": "has not memorised",
            }.get(state, "is not decided")
        parts.append(f"{title}: {words}")
    return "; ".join(parts)
