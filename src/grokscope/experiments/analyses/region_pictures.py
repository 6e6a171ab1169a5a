"""What a picture of linear regions is drawn from: small arrays that hold its full detail."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from grokscope.experiments.analyses.kink_lines import kink_lines
from grokscope.measures import jacobian
from grokscope.measures.regions import LinearRegions, Slice, linear_regions

_PIXELS = 128  # the norm varies little from cell to cell: lines carry the detail
_LINE_DETAIL = 1000  # of the slice's width: half a pixel of a large picture


def setting(
    x: Tensor, y: Tensor, plane: Slice, radius: float, image_shape: tuple[int, ...] | None
) -> dict[str, Tensor]:
    """What does not change over training.

    ``x`` (3, [c, h, w]) and ``y`` (3,): the points; ``coordinates`` (3, 2): where they are;
    ``domain`` (2, 2): the lower and the upper corner of the slice; ``radius``.
    """
    return {
        "x": _as_images(x, image_shape),
        "y": y,
        "coordinates": plane.coordinates(x),
        "domain": torch.stack([plane.polygon.amin(0), plane.polygon.amax(0)]),
        "radius": torch.tensor(radius),
    }


def picture(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    plane: Slice,
    radius: float,
    image_shape: tuple[int, ...] | None,
) -> dict[str, Tensor]:
    """A slice as it is now.

    ``norms`` (r, r): the operator norm at the centers of square pixels, the top row first;
    ``lines`` (m, 2) and ``line_start``: see ``kink_lines``; ``boundary`` (s, 2, 2): the decision
    boundary; ``count``: the number of regions; ``centroids`` and ``rows`` (3, [c, h, w]): of each
    point the centroid and the row of its label in the Jacobian.

    The regions around the points, exactly: ``near_corners`` (c, 2), relative to the point, with
    ``near_start`` (F + 1,), ``near_norms`` (F,) and ``near_point`` (F,), the point they are around;
    ``near_boundary`` (s, 2, 2) with ``near_boundary_point`` (s,).
    """
    regions = linear_regions(model, plane)
    width = float((plane.polygon.amax(0) - plane.polygon.amin(0)).max())
    lines, start = kink_lines(regions, width / _LINE_DETAIL)
    at_points = jacobian.input_jacobian(model, x)
    rows = at_points[torch.arange(len(x)), y]
    return {
        "norms": _raster(model, plane, x),
        "lines": lines.float(),
        "line_start": start.int(),
        "boundary": regions.decision_boundary().segments.float(),
        "count": torch.tensor(len(regions)),
        "centroids": _as_images(at_points.sum(1), image_shape),
        "rows": _as_images(rows, image_shape),
        **_near([linear_regions(model, Slice(p, plane.basis, half_width=radius)) for p in x]),
    }


def _raster(model: nn.Module, plane: Slice, like: Tensor) -> Tensor:
    low, high = plane.polygon.amin(0), plane.polygon.amax(0)
    middle = (torch.arange(_PIXELS, dtype=torch.float64) + 0.5) / _PIXELS
    across, up = (low + middle[:, None] * (high - low)).T
    grid = torch.cartesian_prod(up.flip(0), across).flip(1)
    norms = [
        jacobian.jacobian_norm(model, plane.points(part).to(like), chunk_size=512)
        for part in grid.split(4096)
    ]
    return torch.cat(norms).reshape(_PIXELS, _PIXELS).float()


def _near(windows: list[LinearRegions]) -> dict[str, Tensor]:
    corners, starts, norms, boundaries = [], [torch.zeros(1, dtype=torch.int64)], [], []
    for window in windows:
        corners.append(window.polygons.corners)
        starts.append(window.polygons.start[1:] + starts[-1][-1])
        norms.append(window.operator_norms())
        boundaries.append(window.decision_boundary().segments)
    return {
        "near_corners": torch.cat(corners).float(),
        "near_start": torch.cat(starts).int(),
        "near_norms": torch.cat(norms).float(),
        "near_point": _numbers(map(len, windows)),
        "near_boundary": torch.cat(boundaries).float(),
        "near_boundary_point": _numbers(map(len, boundaries)),
    }


def _numbers(counts: Iterable[int]) -> Tensor:
    """0 as often as the first count says, 1 as often as the second, and so on."""
    repeats = torch.tensor(list(counts))
    return torch.repeat_interleave(torch.arange(len(repeats), dtype=torch.uint8), repeats)


def _as_images(x: Tensor, image_shape: tuple[int, ...] | None) -> Tensor:
    return x.float() if image_shape is None else x.reshape(len(x), *image_shape).float()
