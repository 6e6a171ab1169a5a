"""Theorem 4 and Proposition 6: centroids, the cells they belong to, and alignment.

A layer of ReLU units is affine on each of its cells, and the sum of its outputs is convex: at x it
is the largest of all the affine functions <mu_j, x> + beta_j, one a cell j, with mu_j = J^T 1 and
beta_j the sum of the biases. So x lies in the cell where

    |x - mu_j|^2 - (|mu_j|^2 + 2 beta_j)

is least: the cells form a power diagram with centroids mu_j. Behind further layers the same holds
within a cell of the layers before. Over all of input space it needs the sum of the outputs to be
convex, which negative weights undo.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grokscope.experiments.analyses.theorems.finding import Finding
from grokscope.experiments.analyses.theorems.optimum import optimal_entries
from grokscope.measures.centroid import centroids
from grokscope.measures.jacobian import affine_map, input_jacobian
from grokscope.models import MLP

_TOLERANCE = 1e-9
_POINTS = 400


def centroid_findings(networks: int, generator: torch.Generator) -> list[Finding]:
    """Formula of the centroid, where it makes a power diagram, and what alignment does to it."""
    worst = [0.0] * 6
    for _ in range(networks):
        seed = int(torch.randint(2**31, (), generator=generator))
        found = [*_diagrams(seed, generator), *_aligned(generator)]
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    rows: list[tuple[str, str, str, str, bool]] = [
        (
            "theorem_4_formula",
            "Theorem 4",
            "The centroid is J^T 1, the sum of the Jacobian's rows",
            "",
            False,
        ),
        (
            "theorem_4_layer",
            "Theorem 4",
            "Every point lies in the cell whose centroid has the least power distance",
            "the cells of one layer",
            False,
        ),
        (
            "theorem_4_subdivision",
            "Theorem 4",
            "The same for two layers",
            "points within one cell of the layer before",
            False,
        ),
        (
            "theorem_4_network",
            "Theorem 4",
            "The same for the cells and centroids of a whole network",
            "weights of either sign: the sum of its outputs is not convex",
            True,
        ),
        (
            "proposition_6",
            "Proposition 6",
            "An aligned Jacobian c x^T has the centroid (1^T c) x, of cosine 1 or -1 with x",
            "1^T c is not 0",
            False,
        ),
        (
            "proposition_6_cross_entropy",
            "Proposition 6",
            "At the optimum of Theorem 2 under cross-entropy 1^T c = a + (C-1) b = 0: there is no "
            "centroid to align",
            "",
            False,
        ),
    ]
    return [
        Finding(key, theorem, statement, condition, deviation, _TOLERANCE, counterexample)
        for (key, theorem, statement, condition, counterexample), deviation in zip(
            rows, worst, strict=True
        )
    ]


def _diagrams(seed: int, generator: torch.Generator) -> list[float]:
    model = MLP(3, [7, 6], 4, seed=seed).double()
    x = torch.randn(_POINTS, 3, dtype=torch.float64, generator=generator)
    rows = input_jacobian(model, x).sum(1)
    formula = float((centroids(model, x) - rows).abs().max() / rows.abs().max())
    layers = dict(model.named_children())
    one = nn.Sequential(layers["linear1"], layers["activation1"])
    two = nn.Sequential(one, layers["linear2"], layers["activation2"])
    code = one(x) > 0
    values, counts = code.unique(dim=0, return_counts=True)
    inside = x[(code == values[counts.argmax()]).all(1)]
    return [formula, _excess(one, x), _excess(two, inside), _excess(model, x)]


def _excess(network: nn.Module, x: Tensor) -> float:
    """By how much a point's own cell is farther than the nearest, relative to all distances."""
    a, b = affine_map(network, x)
    mu, beta = a.sum(1), b.sum(1)
    powers = (x[:, None] - mu).square().sum(2) - mu.square().sum(1) - 2 * beta
    return float((powers.diagonal() - powers.amin(1)).max() / powers.abs().max())


def _aligned(generator: torch.Generator) -> list[float]:
    x = torch.randn(1, 9, dtype=torch.float64, generator=generator)
    c = torch.randn(5, dtype=torch.float64, generator=generator)
    length = float(x.norm())
    a, b = optimal_entries(2.0, 5, length)
    optimal = torch.tensor([b, a, b, b, b], dtype=torch.float64)
    found = []
    for entries, expected in ((c, c.sum() * x), (optimal, 0 * x)):
        layer = nn.Linear(9, 5, bias=False, dtype=torch.float64)
        layer.weight = nn.Parameter(entries[:, None] * x, requires_grad=False)
        found.append(float((centroids(layer, x) - expected).norm() / layer.weight.norm()))
    return found
