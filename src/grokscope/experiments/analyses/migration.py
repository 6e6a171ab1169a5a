"""Where the boundaries of linear regions are: near the data, or near the decision boundary.

GrokAlign (Walker et al. 2025, Figures 1 and 11) says of a network that generalizes that its regions
flatten around the training points and migrate to the decision boundary, as Humayun, Balestriero &
Baraniuk (2024) say of grokking in general. On a slice through training points both places are
exact, and so are the edges of all regions: how far the points are from the nearest edge and from
the decision boundary, and how much edge there is per area around each of the two places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grokscope.measures.regions import Slice, linear_regions

_PLACES = 64


def migration_metrics(
    model: nn.Module, plane: Slice, points: Tensor, radius: float
) -> dict[str, Tensor]:
    """Distances of points of a slice to boundaries, and the density of boundaries at two places.

    Args:
        model: a piecewise affine network.
        plane: the slice; discs that leave its domain do not count.
        points: inputs on the slice, (m, *d).
        radius: of the discs in which the density is taken, a length in input space.

    Returns:
        ``region_distance`` (m,) and ``decision_distance`` (m,): to the nearest edge between two
        regions and to the decision boundary, within the slice, infinite where it has none;
        ``density_data`` (m,) and ``density_decision`` (p,): length of edges per area around the
        points, and around places spread evenly over the decision boundary; ``migration`` (1,): the
        mean of the latter over the mean of the former. Discs that leave the domain are left out,
        and so is a ratio that does not exist: each of the last three may be empty.
    """
    regions = linear_regions(model, plane)
    at = plane.coordinates(points)
    places = places_along(regions.decision_boundary().segments, plane.metric, _PLACES)
    near_points, near_decision = (
        _known(regions.boundary_density(centers, radius)) for centers in (at, places)
    )
    return {
        "region_distance": regions.distance_to_boundary(at),
        "decision_distance": regions.distance_to_decision_boundary(at),
        "density_data": near_points,
        "density_decision": near_decision,
        "migration": _known((near_decision.mean() / near_points.mean()).reshape(1)),
    }


def _known(values: Tensor) -> Tensor:
    return values[~values.isnan()]


def places_along(segments: Tensor, metric: Tensor, count: int) -> Tensor:
    """Points (count, 2) at equal distances along segments (s, 2, 2) laid end to end.

    Args:
        segments: the ends of each segment, in slice coordinates.
        metric: (2, 2), ``slice.metric``, which makes coordinates lengths in input space.
        count: how many; none where there are no segments.

    Example:
        >>> ends = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[5.0, 0.0], [5.0, 3.0]]])
        >>> places_along(ends, torch.eye(2), 4)
        tensor([[0.5000, 0.0000],
                [5.0000, 0.5000],
                [5.0000, 1.5000],
                [5.0000, 2.5000]])
    """
    along = segments[:, 1] - segments[:, 0]
    length = (along @ metric.to(along)).norm(dim=1)
    reached = length.cumsum(0)
    if not len(segments) or not reached[-1] > 0:
        return segments.new_zeros(0, 2)
    wanted = (torch.arange(count, dtype=length.dtype) + 0.5) / count * reached[-1]
    which = torch.searchsorted(reached, wanted).clamp_max(len(segments) - 1)
    share = 1 - (reached[which] - wanted) / length[which]
    return segments[which, 0] + share[:, None] * along[which]
