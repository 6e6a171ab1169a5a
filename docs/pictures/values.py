"""One number for a network from each measure: what the cards draw over training."""

from __future__ import annotations

from collections.abc import Callable

import torch

import grokscope as gs

Value = Callable[[torch.nn.Module, gs.Dataset], float]


def _probe(data: gs.Dataset) -> torch.Tensor:
    return data.train_x[:128]


def _manifolds(model: torch.nn.Module, data: gs.Dataset) -> list[torch.Tensor]:
    features = gs.layer_activations(model, data.test_x[:500])["activation2"]
    return gs.class_manifolds(features, data.test_y[:500], num_points=30)


def _layer(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return gs.layer_activations(model, x)["activation2"]


def _probe_accuracy(model: torch.nn.Module, data: gs.Dataset) -> float:
    train, test = _layer(model, data.train_x), _layer(model, data.test_x)
    return float(gs.linear_probe(train, data.train_y, test, data.test_y, max_steps=200).accuracy)


def _sgd_probe_accuracy(model: torch.nn.Module, data: gs.Dataset) -> float:
    train, test = _layer(model, data.train_x), _layer(model, data.test_x)
    scale = train.norm(dim=1).mean() / 10  # plain SGD needs features of a common scale
    found = gs.sgd_probe(train / scale, data.train_y, test / scale, data.test_y, num_repeats=4)
    return float(found.mean())


def _layer_centroid_alignment(model: torch.nn.Module, data: gs.Dataset) -> float:
    x = _probe(data)
    centroids = gs.layer_centroids(model, x, layers=["activation1"])["activation1"]
    return float(torch.cosine_similarity(centroids, x, dim=1).mean())


def _shared_variance(model: torch.nn.Module, data: gs.Dataset) -> float:
    geometry = gs.manifold_geometry(_manifolds(model, data), num_samples=50)
    return float(geometry.center_correlation)


def _num_cells(model: torch.nn.Module, data: gs.Dataset) -> float:
    a, b, c = data.train_x[:3]
    return len(gs.linear_regions(model, gs.Slice.through(a, b, c, half_width=4.0)))


def _classes(model: torch.nn.Module, data: gs.Dataset) -> float:
    kernel = gs.empirical_ntk(model, data.train_x[:64], reduce="trace")
    return float(gs.kernel_alignment(kernel, data.train_y[:64], centered=True))


# file of the card -> (what is drawn, the value)
DIGITS: dict[str, tuple[str, Value]] = {
    "input-jacobian": (
        "largest entry of |A|",
        lambda m, d: float(gs.input_jacobian(m, _probe(d)).abs().flatten(1).amax(1).mean()),
    ),
    "affine-map": (
        "norm of the bias b",
        lambda m, d: float(gs.affine_map(m, _probe(d))[1].norm(dim=1).mean()),
    ),
    "jacobian-norm": ("Jacobian norm", lambda m, d: float(gs.jacobian_norm(m, _probe(d)).mean())),
    "jacobian-alignment": (
        "max |cosine| of rows",
        lambda m, d: float(gs.jacobian_alignment(m, _probe(d)).abs().amax(1).mean()),
    ),
    "jacobian-pc1": ("PC1", lambda m, d: float(gs.jacobian_pc1(m, _probe(d)).mean())),
    "centroids": (
        "norm of the centroid",
        lambda m, d: float(gs.centroids(m, _probe(d)).flatten(1).norm(dim=1).mean()),
    ),
    "centroid-alignment": (
        "centroid alignment",
        lambda m, d: float(gs.centroid_alignment(m, _probe(d)).mean()),
    ),
    "centroid-inner-product": (
        "<x, centroid>",
        lambda m, d: float(gs.centroid_inner_product(m, _probe(d)).mean()),
    ),
    "radii": ("radius (median)", lambda m, d: float(gs.radii(m, _probe(d)).median())),
    "layer-centroids": ("alignment, first layer", _layer_centroid_alignment),
    "empirical-ntk": (
        "mean diagonal of the NTK",
        lambda m, d: float(gs.empirical_ntk(m, d.train_x[:64], reduce="trace").diagonal().mean()),
    ),
    "kernel-alignment": ("alignment with labels", _classes),
    "manifold-geometry": (
        "capacity",
        lambda m, d: float(gs.manifold_geometry(_manifolds(m, d), num_samples=50).mean_capacity),
    ),
    "center-structure": ("center correlation", _shared_variance),
    "glue-geometry": (
        "capacity (GLUE)",
        lambda m, d: float(gs.glue_geometry(_manifolds(m, d), num_samples=20).capacity),
    ),
    "layer-activations": (
        "active units of layer 2",
        lambda m, d: float((_layer(m, d.test_x[:500]) > 0).double().mean()),
    ),
    "linear-probe": ("probe accuracy", _probe_accuracy),
    "sgd-probe": ("probe accuracy (SGD)", _sgd_probe_accuracy),
    "linear-regions": ("cells of a slice", _num_cells),
    "weight-norms": (
        "norm of all weights",
        lambda m, d: float(sum(v**2 for v in gs.weight_norms(m).values()) ** 0.5),
    ),
    "gini": ("Gini of |W1|", lambda m, d: float(gs.gini(next(m.parameters()).detach().abs()))),
    "robust-accuracy": (
        "accuracy under PGD",
        lambda m, d: float(
            gs.robust_accuracy(m, d.test_x[:300], d.test_y[:300], attack="pgd", eps=0.05, steps=10)
        ),
    ),
    "noise-accuracy": (
        "accuracy under noise",
        lambda m, d: float(gs.noise_accuracy(m, d.test_x, d.test_y, std=0.3)),
    ),
    "robust-radius": (
        "robust radius (median)",
        lambda m, d: float(gs.robust_radius(m, d.test_x[:300], d.test_y[:300]).median()),
    ),
}
