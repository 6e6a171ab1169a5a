"""Linear probes of a network's layers on data of another kind than it was trained on.

Zheng et al. 2024, Figure 4: networks trained on EMNIST see MNIST's digits, and at each checkpoint a
linear layer is trained on the frozen features. The authors' script takes the output layer, trains
by ten epochs of SGD at a learning rate of 0.01 on features as large as they come, and scores on the
very images that the probe was trained on ("sgd"). Where features are large such a probe does not
converge, and how well it does says as much of their size as of what they hold. Beside it stands a
ridge classifier on standardized features, solved to its optimum and scored on other images
("ridge"). EMNIST's published images are transposed and MNIST's are not, so that the authors' shift
is one of orientation too: both orientations are probed.

Cost: some 2 s a checkpoint for two layers, 1,280 images and 10 draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.activations import layer_activations
from grokscope.measures.probe import sgd_probe

ORIENTATIONS = ("upright", "transposed")


def distribution_shift(
    trained: AnalysisInput,
    data: Mapping[str, Any],
    layers: Sequence[str],
    arms: Sequence[str] | None = None,
    draws: int = 10,
    num_points: int = 1280,
) -> dict[str, Any]:
    """Accuracy of linear probes on another data set at each kept checkpoint.

    Args:
        trained: the trained networks.
        data: the data set, as in a spec's section ``data``; its test images are drawn from.
        layers: whose features are probed.
        arms: the arms to probe; all by default.
        draws: sets of images, with a probe of each kind for each.
        num_points: images that a probe is trained on; "ridge" is scored on as many others.

    Returns:
        ``shift_LAYER_KIND`` for each layer and kind of probe: by arm ``steps`` and, for each
        orientation, its name with the mean over draws, and ``ORIENTATION_deviation`` (first seed).
        ``shift``: by arm, layer, kind and orientation, ``fall``, the last mean less the highest,
        and ``rise``, the last less the first.
    """
    shifted = trained.load(data)
    pictures = (
        shifted.test_x.unflatten(1, shifted.image_shape)
        if shifted.test_x.ndim == 2
        else (shifted.test_x)
    )
    images = {"upright": pictures, "transposed": pictures.mT}
    tables: dict[str, dict[str, Any]] = {}
    summary: dict[str, Any] = {}
    run = trained.run
    for arm in run.arms if arms is None else arms:
        seed = run.seeds(arm)[0]
        steps = run.checkpoint_steps(arm, seed)
        found: dict[tuple[str, str], dict[str, list[Tensor]]] = {}
        for step in steps:
            model = trained.model(arm, seed, step)
            for orientation, x in images.items():
                features = layer_activations(model, x.reshape(shifted.test_x.shape), list(layers))
                for layer in layers:
                    scores = _scores(features[layer].flatten(1), shifted.test_y, draws, num_points)
                    for kind, accuracies in scores.items():
                        by_orientation = found.setdefault((layer, kind), {})
                        by_orientation.setdefault(orientation, []).append(accuracies)
        for (layer, kind), scored in found.items():
            table: dict[str, Any] = {"steps": steps}
            for orientation, values in scored.items():
                means = [float(value.mean()) for value in values]
                table[orientation] = means
                table[f"{orientation}_deviation"] = [
                    float(value.std(correction=0)) for value in values
                ]
                own = summary.setdefault(arm, {}).setdefault(layer, {}).setdefault(kind, {})
                own[orientation] = {
                    "fall": means[-1] - float(np.nanmax(means)),
                    "rise": means[-1] - means[0],
                }
            tables.setdefault(f"shift_{layer}_{kind}", {})[arm] = table
    return {**tables, "shift": summary}


def _scores(features: Tensor, y: Tensor, draws: int, num_points: int) -> dict[str, Tensor]:
    """Accuracies (draws,) of both kinds of probe on the same draws."""
    if not torch.isfinite(features).all():
        nowhere = torch.full((draws,), torch.nan)
        return {"sgd": nowhere, "ridge": nowhere}
    scores: dict[str, list[float]] = {"sgd": [], "ridge": []}
    for draw in range(draws):
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(len(y), generator=generator)
        seen, others = order[:num_points], order[num_points : 2 * num_points]
        train = features[seen], y[seen]
        (accuracy,) = sgd_probe(
            *train, *train, num_repeats=1, num_examples=num_points, generator=generator
        )
        scores["sgd"].append(float(accuracy))
        scores["ridge"].append(_ridge_accuracy(*train, features[others], y[others]))
    return {kind: torch.tensor(values) for kind, values in scores.items()}


def _ridge_accuracy(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), RidgeClassifier())
    probe.fit(x.double().numpy(), y.numpy())
    return float(probe.score(test_x.double().numpy(), test_y.numpy()))
