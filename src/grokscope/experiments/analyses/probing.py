"""Linear probes of a layer over training: how much of the classes a linear layer can read from it.

Zheng et al. 2024, Figure 4: at each kept checkpoint a linear layer is trained on the frozen
features of the second-to-last layer, ten times over, by the paper's protocol (``sgd_probe``).
Cost: some 0.2 s a checkpoint for 1,000 points, 200 features and 10 repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grokscope.experiments.analyses.late_compression import settled
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.activations import layer_activations
from grokscope.measures.probe import sgd_probe


def probing(
    trained: AnalysisInput,
    layer: str,
    arms: Sequence[str] | None = None,
    repeats: int = 10,
    test_size: int = 2000,
    num_epochs: int = 10,
) -> dict[str, Any]:
    """Mean and deviation of the probes' test accuracy at each kept checkpoint.

    Args:
        trained: the trained networks.
        layer: whose features are probed.
        arms: the arms to probe; all by default.
        repeats: probes of a checkpoint.
        test_size: test points that they are judged by.
        num_epochs: passes over the features.

    Returns:
        ``probing``: by arm ``steps``, ``mean`` and ``mean_deviation`` (first seed).
        ``probe_change``: by arm, mean accuracy at the last checkpoint less that at the first after
        test accuracy had settled.
    """
    run = trained.run
    trajectories: dict[str, Any] = {}
    change: dict[str, float] = {}
    for arm in run.arms if arms is None else arms:
        seed = run.seeds(arm)[0]
        steps = run.checkpoint_steps(arm, seed)
        accuracies = [
            _probe(trained, arm, seed, step, layer, repeats, test_size, num_epochs)
            for step in steps
        ]
        means = [float(values.mean()) for values in accuracies]
        trajectories[arm] = {
            "steps": steps,
            "mean": means,
            "mean_deviation": [float(values.std(correction=0)) for values in accuracies],
        }
        start = settled(run.history(arm, seed))
        after = [mean for step, mean in zip(steps, means, strict=True) if step >= start]
        if len(after) > 1:
            change[arm] = after[-1] - after[0]
    return {"probing": trajectories, "probe_change": change}


def _probe(
    trained: AnalysisInput,
    arm: str,
    seed: int,
    step: int,
    layer: str,
    repeats: int,
    test_size: int,
    num_epochs: int,
) -> Tensor:
    """Test accuracies of the probes of one checkpoint, (repeats,)."""
    data = trained.data[arm]
    model = trained.model(arm, seed, step)
    train, test = (
        layer_activations(model, x, [layer])[layer].flatten(1).double()
        for x in (data.train_x, data.test_x[:test_size])
    )
    if not (torch.isfinite(train).all() and torch.isfinite(test).all()):
        return torch.full((repeats,), torch.nan, dtype=torch.float64)
    return sgd_probe(
        train,
        data.train_y,
        test,
        data.test_y[:test_size],
        num_repeats=repeats,
        num_epochs=num_epochs,
        generator=torch.Generator().manual_seed(step),
    )
