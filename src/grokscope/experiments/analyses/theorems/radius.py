"""Theorem 3: how far an example is from misclassification, and the maps that make it farthest.

For A = u v^T without bias, (A_y - A_j) x = (u_y - u_j) <v, x> and |A_y - A_j| = (u_y - u_j) |v|
where u_y > u_j, so that every class is |<v, x>| / |v| = |x| cos(v, x) away: most where v is along
x. Nor does a map of higher rank do better, since (A_y - A_j) x <= |A_y - A_j| |x|. A bias adds
(b_y - b_j) / |A_y - A_j|, which knows no bound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grokscope.experiments.analyses.theorems.finding import Finding
from grokscope.measures.robustness import robust_radius
from grokscope.models import MLP

_TOLERANCE = 1e-9


def radius_findings(networks: int, generator: torch.Generator) -> list[Finding]:
    """The radius of rank-one maps, of networks without biases, and of networks with biases."""
    rank_one = [_rank_one(generator) for _ in range(networks)]
    plain, biased = (
        max(_excess(bias, generator) for _ in range(networks)) for bias in (False, True)
    )
    return [
        Finding(
            "theorem_3_rank_one",
            "Theorem 3",
            "The robust radius of a rank-one map u v^T is |x| cos(v, x), largest where v is "
            "along x",
            "no bias; u_y is the largest entry of u; v on the side of x",
            max(rank_one),
            _TOLERANCE,
        ),
        Finding(
            "theorem_3_bound",
            "Theorem 3",
            "No map of any rank has a radius above |x|, that of aligned ones",
            "networks without biases",
            plain,
            _TOLERANCE,
        ),
        Finding(
            "theorem_3_biases",
            "Theorem 3",
            "The same with biases",
            "networks with biases: the bias can carry the boundary farther away",
            biased,
            _TOLERANCE,
            counterexample=True,
        ),
    ]


def _rank_one(generator: torch.Generator) -> float:
    """Deviation of the radius from |x| cos(v, x), and any excess over that of the aligned map."""
    classes, d = 5, 8
    x, v = (torch.randn(d, dtype=torch.float64, generator=generator) for _ in range(2))
    v = v if v @ x > 0 else -v
    u = torch.randn(classes, dtype=torch.float64, generator=generator)
    label = u.argmax()[None]
    turned, aligned = (
        float(robust_radius(_linear(torch.outer(u, w)), x[None], label)) for w in (v, x)
    )
    expected = float(v @ x / v.norm())
    length = float(x.norm())
    return max(abs(turned - expected), abs(aligned - length), turned - aligned) / length


def _excess(bias: bool, generator: torch.Generator) -> float:
    """By how much the radius of a network's own answers exceeds |x|, relative to |x|."""
    seed = int(torch.randint(2**31, (), generator=generator))
    model = MLP(6, [16, 12], 4, bias=bias, seed=seed).double()
    x = torch.randn(100, 6, dtype=torch.float64, generator=generator)
    radius = robust_radius(model, x, model(x).argmax(1)) / x.norm(dim=1)
    # Infinite where every unit is off and only biases speak: too easy a case to be the worst one.
    return max(0.0, float(radius[radius.isfinite()].max()) - 1)


def _linear(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return layer
