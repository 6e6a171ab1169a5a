"""Whether the points that a tangent kernel is taken at matter for how far it turns.

Zheng et al. 2024, Figures A5 and A6: distances between the kernels of all pairs of kept
checkpoints, from several sets of training or test points. Cost: a kernel of (n k)^2 numbers for
each checkpoint and set, kept in memory for one arm and set at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.kernels import kernel_distance_matrix
from grokscope.measures.ntk.empirical import Reduction, empirical_ntk


def kernel_points(
    trained: AnalysisInput,
    sets: Mapping[str, Sequence[Any]],
    arms: Sequence[str] | None = None,
    reduce: Reduction = "full",
) -> dict[str, Any]:
    """Kernel distances between checkpoints on several sets of points, of each arm's first seed.

    Args:
        trained: the trained networks.
        sets: by name, the split ("train" or "test") and how many of its first points.
        arms: the arms to compare; all by default.
        reduce: as in ``empirical_ntk``.

    Returns:
        ``kernel_points``: by set and arm ``steps`` and ``matrix``. ``kernel_agreement``: by arm
        and set, the largest difference of its distances from the initial kernel to those of the
        first set.

    Raises:
        ValueError: if a split is neither "train" nor "test".
    """
    run = trained.run
    matrices: dict[str, dict[str, Any]] = {name: {} for name in sets}
    agreement: dict[str, dict[str, float]] = {}
    for arm in run.arms if arms is None else arms:
        seed = run.seeds(arm)[0]
        steps = run.checkpoint_steps(arm, seed)
        models = [trained.model(arm, seed, step) for step in steps]
        found = {}
        for name, (split, number) in sets.items():
            if split not in ("train", "test"):
                raise ValueError(f"sets: {name} must be of the split train or test: got {split!r}")
            x = getattr(trained.data[arm], f"{split}_x")[:number]
            kernels = [empirical_ntk(model, x, reduce=reduce) for model in models]
            found[name] = kernel_distance_matrix(kernels)
            matrices[name][arm] = {"steps": steps, "matrix": found[name].tolist()}
        first = next(iter(found.values()))
        agreement[arm] = {
            name: float(torch.abs(matrix[0] - first[0]).max()) for name, matrix in found.items()
        }
    return {"kernel_points": matrices, "kernel_agreement": agreement}
