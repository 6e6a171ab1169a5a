"""Theorem 2: the map that is best for one sample under a bound on its norm has aligned rows.

The map A is optimized numerically, by gradient steps that are projected onto the ball
||A||_F^2 <= alpha, and compared with the closed form. In what follows C is the number of classes, y
the label and u the unit vector along e_y - 1/C, whose entry y is sqrt((C-1)/C) and whose others are
-1/sqrt(C(C-1)).

Cross-entropy decreases without end along u, and its slope -(e_y - softmax) at any t u is a
multiple of u by symmetry. So the optimum lies on the ball's surface at A = sqrt(alpha) u x^T / |x|:
rows a x and b x with a = sqrt(alpha (C-1)/C)/|x| and b = -sqrt(alpha/(C(C-1)))/|x|.

Squared error |A x - e_y|^2 has minima inside the ball as soon as alpha >= 1/|x|^2: all A with
A x = e_y, of which e_y x^T / |x|^2 is the shortest and the only aligned one. Below that the optimum
is A = sqrt(alpha) e_y x^T / |x|: the row of the label is sqrt(alpha) x/|x|, all others are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from grokscope.experiments.analyses.theorems.finding import Finding

Loss = Callable[[Tensor], Tensor]

_STEPS = 20_000
_TOLERANCE = 1e-6


def optimum_findings(networks: int, generator: torch.Generator) -> list[Finding]:
    """Both losses, without a bias and, for cross-entropy, with one within the bound."""
    found: dict[str, float] = {}
    for _ in range(networks):
        for key, deviation in _deviations(generator).items():
            found[key] = max(found.get(key, 0.0), deviation)
    texts = {
        "theorem_2_cross_entropy": (
            "Cross-entropy: rows a x of the label and b x of the others are optimal, "
            "a = sqrt(alpha (C-1)/C)/|x|, b = -sqrt(alpha/(C (C-1)))/|x|",
            "no bias",
        ),
        "theorem_2_offset": (
            "The same with |A|^2 + |b|^2 bounded: sqrt(1 + |x|^2) takes the place of |x|",
            "bias within the bound",
        ),
        "theorem_2_squared_error": (
            "Squared error: the row sqrt(alpha) x/|x| of the label and zero rows of the others "
            "are optimal",
            "no bias, alpha < 1/|x|^2",
        ),
        "theorem_2_shortest": (
            "Squared error: of all maps without loss the shortest is aligned, x/|x|^2 for the "
            "label and zero for the others",
            "no bias, alpha >= 1/|x|^2",
        ),
    }
    findings = [Finding(key, "Theorem 2", *texts[key], found[key], _TOLERANCE) for key in texts]
    findings.append(
        Finding(
            "theorem_2_not_unique",
            "Theorem 2",
            "Squared error: every optimum is aligned",
            "alpha > 1/|x|^2: it need not be, other maps have no loss either",
            found["theorem_2_not_unique"],
            _TOLERANCE,
            counterexample=True,
        )
    )
    return findings


def _deviations(generator: torch.Generator) -> dict[str, float]:
    """How far the numerical optima of one random problem are from the closed forms."""
    classes = int(torch.randint(2, 11, (), generator=generator))
    d = int(torch.randint(3, 20, (), generator=generator))
    x = torch.randn(d, dtype=torch.float64, generator=generator)
    x *= float(0.5 + 2 * torch.rand((), generator=generator)) / x.norm()
    label = int(torch.randint(classes, (), generator=generator))
    scale = float(0.3 + 3 * torch.rand((), generator=generator))  # logits on the ball's surface
    target = F.one_hot(torch.tensor(label), classes).double()
    size = float(x.norm())
    start = torch.randn(classes, d, dtype=torch.float64, generator=generator)

    def entropy(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, torch.tensor(label))

    def squared(outputs: Tensor) -> Tensor:
        return (outputs - target).square().sum()

    u = target - 1 / classes
    u = u / u.norm()
    wide = torch.cat([x, x.new_ones(1)])  # a bias is a weight on a constant 1
    found = {}
    for key, point in (("theorem_2_cross_entropy", x), ("theorem_2_offset", wide)):
        radius = scale / float(point.norm())
        begin = torch.randn(classes, len(point), dtype=torch.float64, generator=generator)
        best = minimizer(entropy, point, radius, begin)
        found[key] = _relative(best, radius * torch.outer(u, point / point.norm()))

    tight = float(0.2 + 0.7 * torch.rand((), generator=generator)) / size
    best = minimizer(squared, x, tight, start)
    found["theorem_2_squared_error"] = _relative(best, tight * torch.outer(target, x / size))
    best = minimizer(squared, x, 2 / size, torch.zeros_like(start))
    found["theorem_2_shortest"] = _relative(best, torch.outer(target, x / size**2))
    free = minimizer(squared, x, 2 / size, start)
    found["theorem_2_not_unique"] = _relative(free, torch.outer(target, x / size**2))
    return found


def minimizer(loss: Loss, x: Tensor, radius: float, start: Tensor) -> Tensor:
    """The A (C, d) with ||A||_F <= radius at which ``loss(A x)`` is least, from ``start``.

    Gradient steps of length 1 over a bound on the curvature, each followed by the projection onto
    the ball: they converge for any convex loss. The curvature of both losses in the outputs is at
    most 2.
    """
    a = (start * min(1.0, radius / float(start.norm().clamp_min(1e-300)))).requires_grad_()
    rate = 1 / (2 * float(x @ x))
    for _ in range(_STEPS):
        (gradient,) = torch.autograd.grad(loss(a @ x), a)
        with torch.no_grad():
            moved = a - rate * gradient
            moved *= min(1.0, radius / float(moved.norm()))
            change = float((moved - a).norm())
            a.copy_(moved)
        if change < 1e-14 * radius:
            break
    return a.detach()


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def optimal_entries(alpha: float, classes: int, length: float) -> tuple[float, float]:
    """The entries a and b of the rows a x and b x that are optimal under cross-entropy.

    Example:
        >>> a, b = optimal_entries(4.0, 5, 2.0)
        >>> round(a, 3), round(b, 3), round(a + 4 * b, 9)
        (0.894, -0.224, 0.0)
    """
    a = math.sqrt(alpha * (classes - 1) / classes) / length
    return a, -math.sqrt(alpha / (classes * (classes - 1))) / length
