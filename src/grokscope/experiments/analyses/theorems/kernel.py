"""Lemmas 7 and 8, Theorem 9, Proposition 10, Corollary 11: tangent kernel and centroid.

Without biases a ReLU network f is positively homogeneous in x, so that J x = f(x) and, for the
centroid mu = J^T 1,

    <x, mu> = 1^T f(x)                                                  (Lemma 7, as we read it)

Under gradient flow on the mean loss L over examples x_m the inner product therefore changes at

    d <x, mu> / dt = - sum_m 1^T K(x, x_m) dL / df(x_m)

with K (k, k) the tangent kernel of two points. With one output and binary cross-entropy the slope
is -e_m / n, e_m = y_m - sigmoid(f(x_m)) (Theorem 9); with k outputs and the one-hot label t_m it is
(softmax(f(x_m)) - t_m) / n under cross-entropy (Proposition 10) and 2 (f(x_m) - t_m) / (n k) under
the mean squared error (Corollary 11). For f = c a^T relu(W x) the kernel is (Lemma 8)

    K(x, x') = c^2 (relu(Wx)^T relu(Wx') + <x, x'> sum_i a_i^2 1[w_i x > 0] 1[w_i x' > 0])

Two more rows are ours. The quotient rule turns Theorem 9 into the rate of the cosine,

    d cos(x, mu) / dt = (d <x, mu> / dt - cos(x, mu) |x| <mu, mu'> / |mu|) / (|x| |mu|)

with mu' = d mu / dt = mean_m e_m grad_x K(x, x_m); and weights times s with outputs times c scale
the kernel of L layers by s^(2L-2) c^2 and the centroid by s^L c, which is what the slopes of
Figure 10 come from. The rates on the left are found by differentiating twice, without the kernel.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.experiments.analyses.theorems.finding import Finding
from grokscope.measures.centroid import centroid_inner_product, centroids
from grokscope.measures.ntk.empirical import empirical_ntk
from grokscope.measures.scale import Scale
from grokscope.models import MLP

_TOLERANCE = 1e-6
_SHIFT = 1e-5
_SCALE = 1.3


_ROWS: dict[str, tuple[str, str, str]] = {
    "lemma_7": (
        "Lemma 7, as we read it",
        "The inner product <x, centroid> is the sum of the outputs",
        "no biases; L = 2, 3, 4 layers",
    ),
    "lemma_7_biases": (
        "Lemma 7, as we read it",
        "The same with biases",
        "biases: the sum of the outputs has a part that does not depend on x",
    ),
    "lemma_8": ("Lemma 8", "The closed form of the tangent kernel", "two layers, no biases"),
    "theorem_9": (
        "Theorem 9",
        "The rate of <x, centroid> from the kernel, one output",
        "no biases, gradient flow, binary cross-entropy",
    ),
    "proposition_10": (
        "Proposition 10",
        "The rate of <x, centroid> from the kernel, several outputs, cross-entropy",
        "no biases, gradient flow; L = 2, 3, 4 layers",
    ),
    "corollary_11": (
        "Corollary 11",
        "The same under squared error",
        "no biases, gradient flow; L = 2, 3, 4 layers",
    ),
    "alignment_rate": (
        "From Theorem 9",
        "The rate of cos(x, centroid) from the kernel",
        "as for Theorem 9; x on no kink",
    ),
    "scaling": (
        "What Figure 10 needs",
        "Weights times s and outputs times c: the kernel times s^(2L-2) c^2, the centroid times "
        "s^L c",
        "L = 2, 3, 4 layers, no biases",
    ),
}
_COUNTEREXAMPLE = "lemma_7_biases"


def kernel_findings(networks: int, generator: torch.Generator) -> list[Finding]:
    """Homogeneity, the closed form, the rates, and how kernel and centroid scale."""
    worst = dict.fromkeys(_ROWS, 0.0)
    for index in range(networks):
        seed = int(torch.randint(2**31, (), generator=generator))
        layers = 2 + index % 3
        found = {
            "lemma_7": _inner_product_excess(layers, False, seed, generator),
            "lemma_7_biases": _inner_product_excess(layers, True, seed, generator),
            **_one_output(seed, generator),
            **_several_outputs(layers, seed, generator),
            "scaling": _scaling(layers, seed, generator),
        }
        worst = {key: max(worst[key], found[key]) for key in worst}
    return [
        Finding(key, *row, worst[key], _TOLERANCE, counterexample=key == _COUNTEREXAMPLE)
        for key, row in _ROWS.items()
    ]


def _inner_product_excess(layers: int, bias: bool, seed: int, generator: torch.Generator) -> float:
    """How far <x, centroid> is from the sum of the outputs, relative to the largest sum."""
    model = MLP(5, [8] * (layers - 1), 3, bias=bias, seed=seed).double()
    x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    total = model(x).sum(1).detach()
    return float((centroid_inner_product(model, x) - total).abs().max() / total.abs().max())


def _several_outputs(layers: int, seed: int, generator: torch.Generator) -> dict[str, float]:
    """Deviations of the rate of <x, centroid> for a network of four outputs, under both losses."""
    k = 4
    model = MLP(5, [9] * (layers - 1), k, bias=False, seed=seed).double()
    x = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    y = torch.randint(k, (7,), generator=generator)
    point = torch.randn(1, 5, dtype=torch.float64, generator=generator)
    target = F.one_hot(y, k).double()
    outputs = model(x)
    kernel = empirical_ntk(model, point, x)[0].sum(1)  # (n, k): 1^T K(x, x_m)
    with torch.no_grad():
        slopes = {
            "proposition_10": (outputs.softmax(1) - target) / len(x),
            "corollary_11": 2 * (outputs - target) / outputs.numel(),
        }
    losses = {
        "proposition_10": F.cross_entropy(outputs, y),
        "corollary_11": F.mse_loss(outputs, target),
    }
    leaf = point.clone().requires_grad_()
    (mu,) = torch.autograd.grad(model(leaf).sum(), leaf, create_graph=True)
    found = {}
    for key, loss in losses.items():
        (rate,) = _rates([(mu * point).sum()], loss, list(model.parameters()))
        terms = kernel * slopes[key]
        # Relative to the terms' sum without signs, and 0 at a point at which every unit is off.
        size = float(terms.abs().sum())
        found[key] = abs(float(terms.sum()) + rate) / size if size > 0 else abs(rate)
    return found


def _rates(quantities: list[Tensor], loss: Tensor, parameters: list[nn.Parameter]) -> list[float]:
    """How fast quantities change under gradient flow on a loss, by differentiating both."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    rates = []
    for quantity in quantities:
        slopes = torch.autograd.grad(quantity, parameters, retain_graph=True)
        rates.append(-float(sum((s * g).sum() for s, g in zip(slopes, gradients, strict=True))))
    return rates


def _one_output(seed: int, generator: torch.Generator) -> dict[str, float]:
    """Deviations of kernel and rates for one two-layer network, its data and a point."""
    model = MLP(5, [12], None, bias=False, output_scale=_SCALE, seed=seed).double()
    x = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    y = (torch.arange(9) % 2).double()
    point = torch.randn(5, dtype=torch.float64, generator=generator)
    parameters = list(model.parameters())
    outputs = model(x)
    loss = F.binary_cross_entropy_with_logits(outputs, y)
    errors = (y - torch.sigmoid(outputs)).detach()

    leaf = point.clone().requires_grad_()
    (mu,) = torch.autograd.grad(model(leaf[None]).sum(), leaf, create_graph=True)
    rates = _rates([mu @ point, F.cosine_similarity(mu, point, dim=0)], loss, parameters)

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
        "alignment_rate": abs(bent - rates[1]) / abs(rates[1]),
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
