r"""Capacity by experiment: how few random dimensions still separate the manifolds.

Cohen, Chung, Lee and Sompolinsky (*Nature Communications* 11:746, 2020) check the mean-field theory
so: project all points to n random dimensions, give every manifold a random label, ask whether a
hyperplane through the origin separates the labels, and find by bisection the n_c at which half of
such trials do. The capacity is P / n_c.

Whether y_j x_j lie on one side of a hyperplane is decided exactly: they do unless their convex hull
holds the origin, and with unit x_j in the columns of Z and a row of ones below,
min_{a >= 0} |Z a|^2 + (1 - sum a)^2 = d^2 / (1 + d^2), d being the hull's distance from the origin.

Cost: log2(N) + 1 evaluations of ``num_trials`` non-negative least squares problems with all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.manifolds import check_manifolds
from grokscope.measures.nnls import nonnegative_least_squares
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown

_TOUCHING = 1e-8  # distance of the hull, for unit points, below which it holds the origin
_CHUNK = 2**22  # numbers held at once


@shown()
@dataclass(frozen=True, repr=False)
class SimulatedCapacity:
    """What the bisection found.

    Attributes:
        capacity: P / ``num_features``.
        num_features: n_c, interpolated between the two counts where the fraction crosses one half.
        fractions: share of separable trials at every count of features tried.
    """

    capacity: float
    num_features: float
    fractions: dict[int, float]


@torch.no_grad()
@checked_arguments
@without_autocast
def simulated_capacity(
    manifolds: Sequence[Tensor] | Tensor,
    num_trials: int = 100,
    generator: torch.Generator | None = None,
    center: bool = True,
    progress: bool = True,
) -> SimulatedCapacity:
    """The capacity measured by separating random dichotomies of random projections.

    Args:
        manifolds: one (m_i, N) tensor for each class, at least two; or one (P, m, N) tensor.
        num_trials: projections and dichotomies at every number of dimensions.
        generator: of both; None for a fixed stream of its own.
        center: subtract the mean over all points, as the mean-field geometry does.
        progress: show the bisection on stderr where that is a terminal.

    Raises:
        ValueError: for input as in ``manifold_geometry``, or manifolds of which half the
            dichotomies cannot be separated even with all N features.

    Example:
        >>> import grokscope as gs, torch
        >>> points = torch.randn(20, 1, 60, generator=torch.Generator().manual_seed(0))
        >>> 1.8 < gs.simulated_capacity(points, center=False).capacity < 2.2
        True
    """
    from rich.console import Console
    from rich.progress import Progress

    clouds = check_manifolds(manifolds)
    if num_trials < 1:
        raise ValueError(f"num_trials must be positive: got {num_trials}")
    points = torch.cat(clouds)
    if center:
        points = points - points.mean(0)
    owner = torch.repeat_interleave(
        torch.arange(len(clouds)), torch.tensor([len(cloud) for cloud in clouds])
    ).to(points.device)
    generator = generator or torch.Generator().manual_seed(0)
    fractions: dict[int, float] = {0: 0.0}
    few, enough = 0, points.shape[1]
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not (progress and console.is_terminal)
    ) as bar:
        task = bar.add_task("simulated capacity", total=enough.bit_length() + 1)
        fractions[enough] = _separable_fraction(points, owner, enough, num_trials, generator)
        if fractions[enough] < 0.5:
            raise ValueError(
                f"manifolds are too many for {enough} features: a fraction "
                f"{fractions[enough]:.2f} of dichotomies is separable with all of them; the "
                f"capacity is below {len(clouds) / enough:.3g}; pass fewer manifolds"
            )
        # The fraction is taken to grow with the number of features, up to sampling noise: bisection
        # keeps it below one half at ``few`` and at least that at ``enough``.
        while enough - few > 1:
            bar.advance(task)
            middle = (few + enough) // 2
            fractions[middle] = _separable_fraction(points, owner, middle, num_trials, generator)
            few, enough = (few, middle) if fractions[middle] >= 0.5 else (middle, enough)
    share = (0.5 - fractions[few]) / (fractions[enough] - fractions[few])
    critical = few + share * (enough - few)
    del fractions[0]
    return SimulatedCapacity(len(clouds) / critical, critical, dict(sorted(fractions.items())))


def _separable_fraction(
    points: Tensor, owner: Tensor, num_features: int, num_trials: int, generator: torch.Generator
) -> float:
    """Share of random dichotomies of random projections that a hyperplane separates."""
    count, device = int(owner[-1]) + 1, generator.device
    at_once = max(1, _CHUNK // (len(points) * (num_features + 1)))
    separable = 0
    for start in range(0, num_trials, at_once):
        trials = min(at_once, num_trials - start)
        shape = (trials, points.shape[1], num_features)
        projection = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
        coins = torch.randint(2, (trials, count), generator=generator, device=device)
        labels = (2 * coins - 1).to(points)[:, owner]
        # points of the class -1 are mirrored: a dichotomy is separable if all lie on one side of 0
        projected = (points @ projection.to(points.device)).mT * labels.unsqueeze(1)
        separable += int(separable_by_origin(projected).sum())
    return separable / num_trials


def separable_by_origin(points: Tensor) -> Tensor:
    """Whether some w has w.x > 0 for every column x of each problem: (T, D, m) to (T,)."""
    lengths = points.norm(dim=1, keepdim=True)
    unit = points / torch.where(lengths > 0, lengths, 1.0)
    columns = torch.cat([unit, torch.ones_like(lengths)], dim=1)
    target = columns.new_zeros(len(columns), columns.shape[1])
    target[:, -1] = 1.0
    coefficients = nonnegative_least_squares(columns, target).coefficients
    gap = target - (columns @ coefficients.unsqueeze(2)).squeeze(2)
    return gap.norm(dim=1) > _TOUCHING
