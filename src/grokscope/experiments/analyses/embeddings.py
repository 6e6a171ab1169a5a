"""Two-dimensional pictures of a layer's representation of test points at chosen steps, by UMAP."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.activations import layer_activations
from grokscope.measures.embedding import embedding_2d


def embeddings(
    trained: AnalysisInput,
    layer: str,
    steps: Sequence[int],
    arms: Sequence[str] | None = None,
    classes: int = 10,
    num_points: int = 500,
) -> str:
    """Store for the report, as ``embedding``, pictures of test points of the first classes.

    The tensors are ``steps`` (s,), ``points`` (s, n, 2) and ``y`` (n,). A step whose checkpoint
    was not kept gives way to the nearest that was.

    Returns:
        Why there are none, where umap-learn is not installed; else an empty text.
    """
    run = trained.run
    for arm in run.arms if arms is None else arms:
        seed, data = run.seeds(arm)[0], trained.data[arm]
        kept = run.checkpoint_steps(arm, seed)
        chosen = sorted({min(kept, key=lambda at: abs(at - step)) for step in steps})
        of_classes = torch.nonzero(data.test_y < classes).flatten()[:num_points]
        pictures = []
        for step in chosen:
            features = layer_activations(
                trained.model(arm, seed, step), data.test_x[of_classes], [layer]
            )[layer]
            try:
                pictures.append(embedding_2d(features))
            except ModuleNotFoundError as error:
                return str(error)
        arrays = {
            "steps": torch.tensor(chosen),
            "points": torch.stack(pictures),
            "y": data.test_y[of_classes],
        }
        trained.save_arrays(arm, seed, "embedding", arrays)
    return ""
