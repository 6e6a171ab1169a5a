"""Class manifolds: what the geometry measures accept, and the coordinates they work in.

A manifold is the cloud of one class's representations, (m_i, N); P of them make a list.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.centers import principal_signs
from grokscope.measures.inputs import check_count, check_features
from grokscope.measures.precision import without_autocast
from grokscope.measures.spectra import gram_eigen

_VANISHED = 1e-10  # center norm, relative to the data, below which there is nothing to divide by


@checked_arguments
@without_autocast
def class_manifolds(
    features: Tensor,
    labels: Tensor,
    num_points: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """One manifold for each class present, in the order of the labels.

    Args:
        features: (n, ...), flattened to (n, N).
        labels: (n,) integers.
        num_points: keep at most this many points of a class; None for all.
        generator: keep random ones; None for the first.

    Raises:
        ValueError: if the labels do not match the features, or are not integers.

    Example:
        >>> import grokscope as gs, torch
        >>> [len(m) for m in gs.class_manifolds(torch.eye(5), torch.tensor([3, 1, 3, 3, 1]))]
        [2, 3]
    """
    check_features(features, "features")
    if num_points is not None:
        check_count("num_points", num_points, fix="or None for all")
    if labels.is_floating_point() or labels.is_complex() or labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be integers of shape ({len(features)},), one for each row of features: "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    features, labels = features.flatten(1), labels.to(features.device)
    manifolds = []
    for label in labels.unique():
        points = features[labels == label]
        if num_points is not None and generator is not None:
            order = torch.randperm(len(points), generator=generator, device=generator.device)
            points = points[order.to(points.device)]
        manifolds.append(points[:num_points])
    return manifolds


def check_manifolds(manifolds: Sequence[Tensor] | Tensor) -> list[Float[Tensor, "_ N"]]:
    """The manifolds as detached float64 matrices; raise, naming the manifold, unless they fit."""
    if len(manifolds) < 2:
        raise ValueError(
            f"manifolds must hold at least two manifolds: got {len(manifolds)}; pass one (m, N) "
            "tensor for each class, e.g. gs.class_manifolds(features, labels)"
        )
    for i, points in enumerate(manifolds):
        name = f"manifolds[{i}]"
        if points.ndim != 2:
            raise ValueError(
                f"{name} must have shape (m, N), points by features: got {tuple(points.shape)}"
            )
        if points.numel() == 0:
            raise ValueError(f"{name} is empty: got shape {tuple(points.shape)}")
        if not points.is_floating_point():
            raise TypeError(f"{name} must be floating point: got {points.dtype}; pass .float()")
        if points.shape[1] != manifolds[0].shape[1]:
            raise ValueError(
                f"{name} has {points.shape[1]} features and manifolds[0] has "
                f"{manifolds[0].shape[1]}; manifolds are (m_i, N), one point a row"
            )
        if not bool(torch.isfinite(points).all()):
            row = int((~torch.isfinite(points)).any(1).nonzero()[0])
            raise ValueError(f"{name} holds NaN or infinity: the first such point is row {row}")
    return [points.detach().double() for points in manifolds]


def without_subspace(
    manifolds: list[Tensor], subspace: Float[Tensor, "N K"]
) -> list[Float[Tensor, "_ N"]]:
    """Each manifold about its own center, in units of that center's distance from the origin.

    The origin is the mean over all points of all manifolds; ``subspace`` is projected out first.
    """
    origin = torch.cat(manifolds).mean(0)
    prepared = []
    for i, points in enumerate(manifolds):
        points = points - origin
        scale = points.norm(dim=1).amax()
        points = points - (points @ subspace) @ subspace.mT
        center = points.mean(0)
        distance = center.norm()
        if not bool(distance > _VANISHED * scale):
            raise ValueError(
                f"manifolds[{i}]: its center coincides with the mean over all points once the "
                f"{subspace.shape[1]} shared directions are removed, so its geometry has no "
                "scale; leave the manifold out or pass correlations='keep'"
            )
        prepared.append((points - center) / distance)
    return prepared


def thin_coordinates(points: Float[Tensor, "m N"]) -> Float[Tensor, "D m"]:
    """The points as columns in D = min(N, m) coordinates, by thin QR where N > m."""
    columns = points.mT
    if columns.shape[0] <= columns.shape[1]:
        return columns
    return torch.linalg.qr(columns, mode="r").R


def principal_coordinates(points: Float[Tensor, "m N"], reduce_rank: bool) -> Float[Tensor, "D m"]:
    """The same in the cloud's principal axes, which turn with it and ignore the points' order.

    With ``reduce_rank``, only the axes along which it extends.
    """
    columns = thin_coordinates(points)
    axes = gram_eigen(columns @ columns.mT).vectors
    columns = axes.mT.flip(0) @ columns
    columns = columns * principal_signs(columns)
    if not reduce_rank:
        return columns
    spread = columns.norm(dim=1)
    noise = torch.finfo(columns.dtype).eps * max(points.shape) * 10
    return columns[spread > noise * torch.maximum(spread.amax(), spread.new_ones(()))]
