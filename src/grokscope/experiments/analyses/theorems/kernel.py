"""Lemma 8, Theorem 9, Proposition 10, Corollary 11: tangent kernel and centroid over training.

For f(x) = c a^T relu(W x) without biases, with outputs trained as logits under the mean binary
cross-entropy, e_m = y_m - sigmoid(f(x_m)) and mu the centroid of x, gradient flow gives

    K(x, x') = c^2 (relu(Wx)^T relu(Wx') + <x, x'> sum_i a_i^2 1[w_i x > 0] 1[w_i x' > 0])
    d <x, mu> / dt = mean_m K(x, x_m) e_m
    d cos(x, mu) / dt = (d <x, mu> / dt - cos(x, mu) |x| <mu, mu'> / |mu|) / (|x| |mu|)

with mu' = d mu / dt = mean_m e_m grad_x K(x, x_m). The rates on the left are found by
differentiating twice, without the kernel.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.experiments.analyses.theorems.finding import Finding
from grokscope.measures.centroid import centroids
from grokscope.measures.ntk import empirical_ntk
from grokscope.measures.scale import Scale
from grokscope.models import MLP

_TOLERANCE = 1e-6
_SHIFT = 1e-5
_SCALE = 1.3


def kernel_findings(networks: int, generator: torch.Generator) -> list[Finding]:
    """The closed form, the two rates, and how kernel and centroid scale."""
    rows = {
        "lemma_8": ("Lemma 8", "The closed form of the tangent kernel"),
        "theorem_9": ("Theorem 9", "The rate of <x, centroid> from the kernel"),
        "proposition_10": ("Proposition 10", "The rate of cos(x, centroid) from the kernel"),
        "corollary_11": (
            "Corollary 11",
            "Weights times s and outputs times c: the kernel times s^(2L-2) c^2, the centroid "
            "times s^L c",
        ),
    }
    conditions = {
        "lemma_8": "two layers, no biases",
        "theorem_9": "no biases, gradient flow, binary cross-entropy",
        "proposition_10": "the same; x on no kink",
        "corollary_11": "L = 2, 3, 4 layers, no biases",
    }
    worst = dict.fromkeys(rows, 0.0)
    for index in range(networks):
        seed = int(torch.randint(2**31, (), generator=generator))
        found = {
            **_course(seed, generator),
            "corollary_11": _scaling(2 + index % 3, seed, generator),
        }
        worst = {key: max(worst[key], found[key]) for key in worst}
    return [Finding(key, *rows[key], conditions[key], worst[key], _TOLERANCE) for key in rows]


def _course(seed: int, generator: torch.Generator) -> dict[str, float]:
    """Deviations of kernel and rates for one two-layer network, its data and a point."""
    model = MLP(5, [12], None, bias=False, output_scale=_SCALE, seed=seed).double()
    x = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    y = (torch.arange(9) % 2).double()
    point = torch.randn(5, dtype=torch.float64, generator=generator)
    parameters = list(model.parameters())
    outputs = model(x)
    loss = F.binary_cross_entropy_with_logits(outputs, y)
    flow = [-gradient for gradient in torch.autograd.grad(loss, parameters)]
    errors = (y - torch.sigmoid(outputs)).detach()

    leaf = point.clone().requires_grad_()
    (mu,) = torch.autograd.grad(model(leaf[None]).sum(), leaf, create_graph=True)
    rates = []
    for quantity in (mu @ point, F.cosine_similarity(mu, point, dim=0)):
        slopes = torch.autograd.grad(quantity, parameters, retain_graph=True)
        rates.append(float(sum((s * f).sum() for s, f in zip(slopes, flow, strict=True))))

    def mean_kernel(at: Tensor) -> Tensor:
        return (empirical_ntk(model, at, x, reduce="sum") * errors).mean(1)

    mu = mu.detach()
    # On a linear region the kernel is linear in x, so that the difference quotient is exact.
    shift = _SHIFT * torch.eye(5, dtype=torch.float64)
    turn = (mean_kernel(point + shift) - mean_kernel(point - shift)) / (2 * _SHIFT)
    inner = float(mean_kernel(point[None]))
    cosine = F.cosine_similarity(mu, point, dim=0)
    bent = inner - float(cosine * point.norm() * (mu @ turn) / mu.norm())
    bent /= float(point.norm() * mu.norm())
    kernel = empirical_ntk(model, x)[:, :, 0, 0]
    return {
        "lemma_8": float((kernel - closed_form(model, _SCALE, x)).abs().max() / kernel.abs().max()),
        "theorem_9": abs(inner - rates[0]) / abs(rates[0]),
        "proposition_10": abs(bent - rates[1]) / abs(rates[1]),
    }


def closed_form(model: MLP, scale: float, x: Tensor) -> Tensor:
    """The tangent kernel (n, n) of a two-layer network without biases, by Lemma 8."""
    inner, (outer,) = (parameter.detach() for parameter in model.parameters())
    before = x @ inner.T
    on = (before > 0).to(x)
    features = before.relu() @ before.relu().T
    return scale**2 * (features + (x @ x.T) * ((on * outer**2) @ on.T))


def _scaling(layers: int, seed: int, generator: torch.Generator) -> float:
    s, c = 1.7, 0.6
    model = MLP(5, [8] * (layers - 1), None, bias=False, seed=seed).double()
    x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    kernel, before = empirical_ntk(model, x), centroids(model, x)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in scaled.parameters():
            parameter.mul_(s)
    network = nn.Sequential(scaled, Scale(c))
    pairs = (
        (empirical_ntk(network, x), s ** (2 * layers - 2) * c**2 * kernel),
        (centroids(network, x), s**layers * c * before),
    )
    return max(float((found - right).abs().max() / right.abs().max()) for found, right in pairs)
