r"""Mean-field capacity, radius and dimension of class manifolds.

Source: Chung, Lee and Sompolinsky, *Classification and Geometry of General Perceptual Manifolds*,
Physical Review X 8:031003 (2018), for the geometry; Cohen, Chung, Lee and Sompolinsky, *Nature
Communications* 11:746 (2020), for real data, whose centers are correlated (``centers.py``).

A manifold's points, about its center and in units of the center's norm, become the columns of S
with a row of ones for the center. For t ~ N(0, I),

    v = argmin |v - t|^2  subject to  S' v <= -margin            (2018, Sec. III A)

is a projection onto a polyhedral cone, and its dual a non-negative least squares problem:
v = t - S a with a >= 0. A margin moves t by margin along the center and changes nothing else. The
anchor point is s = S a / sum(a), a convex combination of the points; where t itself is feasible,
it is the point of largest projection on t. Then

    capacity  = 1 / < [t.s + margin]_+^2 / |s|^2 >               (2018, Eqs. 16-17)
    radius    = sqrt < |s~ - <s~>|^2 >                           (2018, Eq. 28)
    dimension = D < t~.s~ / |t~||s~| >^2                         (2018, Eq. 29)

s~ and t~ being the D coordinates without the center's.

Cost: a thin QR O(N m^2) and ``num_samples`` problems of O(D m) a round for each manifold, and the
centers' structure. Ten manifolds of 200 points take a fraction of a second on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.centers import CenterStructure, center_structure, mean_correlation
from grokscope.measures.inputs import check_chunk_size
from grokscope.measures.manifolds import (
    check_manifolds,
    principal_coordinates,
    thin_coordinates,
    without_subspace,
)
from grokscope.measures.nnls import nonnegative_least_squares
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown

_LARGEST_RESIDUAL = 1e-8


@shown(
    "mean_capacity",
    "mean_radius",
    "mean_dimension",
    "capacity",
    "radius",
    "dimension",
    "center_correlation",
    "num_center_components",
)
@dataclass(frozen=True, repr=False)
class ManifoldGeometry:
    """Geometry of P manifolds, in float64.

    Attributes:
        capacity: (P,) manifolds per dimension that a random dichotomy can separate.
        radius: (P,) in units of the distance of the manifold's center from the origin.
        dimension: (P,).
        center_correlation: mean absolute correlation of the centers, before any removal.
        center_subspace: (N, K) the directions that were projected out.
    """

    capacity: Float[Tensor, " P"]
    radius: Float[Tensor, " P"]
    dimension: Float[Tensor, " P"]
    center_correlation: Float[Tensor, ""]
    center_subspace: Float[Tensor, "N K"]

    @property
    def num_center_components(self) -> int:
        """K, the number of shared directions removed from the centers."""
        return self.center_subspace.shape[1]

    @property
    def mean_capacity(self) -> Float[Tensor, ""]:
        """Harmonic mean: the capacity of the ensemble (2018, Sec. IV)."""
        return 1 / (1 / self.capacity).mean()

    @property
    def mean_radius(self) -> Float[Tensor, ""]:
        """Plain mean of the radii."""
        return self.radius.mean()

    @property
    def mean_dimension(self) -> Float[Tensor, ""]:
        """Plain mean of the dimensions."""
        return self.dimension.mean()


@torch.no_grad()
@checked_arguments
@without_autocast
def manifold_geometry(
    manifolds: Sequence[Tensor] | Tensor,
    margin: float = 0.0,
    num_samples: int = 200,
    generator: torch.Generator | None = None,
    t: Sequence[Tensor] | None = None,
    center_subspace: Float[Tensor, "N K"] | None = None,
    *,
    correlations: Literal["remove", "keep"] = "remove",
    min_center_components: Literal[0, 1] = 1,
    rank_reduced_dimension: bool = False,
    chunk_size: int | None = None,
) -> ManifoldGeometry:
    """Capacity, radius and dimension of each manifold (equations at the top of the module).

    Args:
        manifolds: one (m_i, N) tensor for each class, at least two; or one (P, m, N) tensor.
        margin: of the separating hyperplane, in units of the center's norm; not negative.
        num_samples: Gaussian vectors for each manifold; the relative error of a capacity falls as
            their inverse root.
        generator: of the Gaussian vectors; None for a fixed stream of its own, so that calls
            repeat and checkpoints are compared on common random numbers.
        t: the vectors themselves, (D_i + 1, num_samples) with D_i = min(N, m_i), the last row for
            the center; in the coordinates of a thin QR where N > m_i, else in the N features.
        center_subspace: (N, K) with orthonormal columns, to remove instead of searching for one.
        correlations: "keep" removes no shared directions from the centers.
        min_center_components: 0 lets the search remove nothing where that leaves the centers
            least correlated; the published procedure removes one direction at least.
        rank_reduced_dimension: count D in the directions along which a manifold extends, not in
            min(N, m_i), which includes at least one along which it does not where N >= m_i.
        chunk_size: Gaussian vectors handled at once; None for all.

    Returns:
        A ``ManifoldGeometry`` in float64, whatever the dtype of the manifolds. Without ``t`` the
        vectors are drawn in each manifold's principal axes: the same generator gives the same
        numbers for rotated data or reordered points.

    Raises:
        ValueError: for fewer than two manifolds, shapes that do not fit, NaN, a negative margin, or
            a manifold whose center vanishes; the message names the manifold.
        TypeError: if a manifold is not a floating-point tensor.

    Example:
        >>> import grokscope as gs, torch
        >>> points = torch.randn(10, 1, 40, generator=torch.Generator().manual_seed(0))
        >>> bool(abs(gs.manifold_geometry(points, num_samples=2000).mean_capacity - 2) < 0.1)
        True
    """
    clouds = check_manifolds(manifolds)
    _check_options(margin, num_samples, correlations, min_center_components)
    check_chunk_size(chunk_size)
    if t is not None and len(t) != len(clouds):
        raise ValueError(
            f"t must hold one tensor for each of {len(clouds)} manifolds: got {len(t)}"
        )
    structure = _structure(clouds, center_subspace, correlations, min_center_components)
    generator = generator or torch.Generator().manual_seed(0)
    rows = []
    for i, points in enumerate(without_subspace(clouds, structure.subspace)):
        if t is None or rank_reduced_dimension:
            columns = principal_coordinates(points, rank_reduced_dimension)
        else:
            columns = thin_coordinates(points)
        # The center is the origin of the axes and one more coordinate, which is 1 for every point:
        # a hyperplane's offset along it is then one more weight, and needs no term of its own.
        columns = torch.cat([columns, columns.new_ones(1, columns.shape[1])])
        if t is None:
            shape, device = (num_samples, len(columns)), generator.device
            vectors = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
            vectors = vectors.to(columns.device)
        else:
            vectors = _check_vectors(t[i], len(columns), f"t[{i}]").to(columns)
        anchors = _anchor_points(columns, vectors, margin, chunk_size, f"manifolds[{i}]")
        rows.append(_geometry(anchors, vectors, margin))
    capacity, radius, dimension = torch.stack(rows, dim=1)
    return ManifoldGeometry(capacity, radius, dimension, structure.correlation, structure.subspace)


def _check_options(
    margin: float, num_samples: int, correlations: str, min_center_components: int
) -> None:
    if not margin >= 0:
        raise ValueError(f"margin must not be negative: got {margin}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be positive: got {num_samples}")
    if correlations not in ("remove", "keep"):
        raise ValueError(f"correlations must be 'remove' or 'keep': got {correlations!r}")
    if min_center_components not in (0, 1):
        raise ValueError(f"min_center_components must be 0 or 1: got {min_center_components}")


def _check_vectors(vectors: Tensor, num_rows: int, name: str) -> Tensor:
    """The given Gaussian vectors as rows; raise unless they fit the manifold's coordinates."""
    if vectors.ndim != 2 or vectors.shape[0] != num_rows or vectors.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape ({num_rows}, num_samples), the manifold's coordinates and the "
            f"center's by samples: got {tuple(vectors.shape)}"
        )
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(f"{name} holds NaN or infinity")
    return vectors.detach().mT


def _structure(
    clouds: list[Tensor], subspace: Tensor | None, correlations: str, min_components: int
) -> CenterStructure:
    """The directions to remove: those given, none, or those the centers share."""
    centers = torch.stack([points.mean(0) for points in clouds])
    num_features = centers.shape[1]
    if subspace is None and correlations == "remove":
        return center_structure(centers, min_components=min_components)
    if subspace is None:
        subspace = centers.new_zeros(num_features, 0)
    if correlations == "keep" and subspace.shape[1]:
        raise ValueError("center_subspace is given and correlations='keep'; drop one of them")
    if subspace.ndim != 2 or subspace.shape[0] != num_features:
        raise ValueError(
            f"center_subspace must have shape ({num_features}, K): got {tuple(subspace.shape)}"
        )
    subspace = subspace.detach().to(centers)
    overlap = subspace.mT @ subspace
    if not torch.allclose(overlap, torch.eye(len(overlap)).to(overlap), atol=1e-5):
        raise ValueError(
            "center_subspace must have orthonormal columns: its Gram matrix is not the identity; "
            "pass torch.linalg.qr(center_subspace).Q"
        )
    correlation = mean_correlation(centers - centers.mean(0))
    return CenterStructure(subspace, correlation, correlation[None])


def _anchor_points(
    columns: Tensor, vectors: Tensor, margin: float, chunk_size: int | None, name: str
) -> Float[Tensor, "T D"]:
    """The anchor point of every vector, with a last coordinate of one."""
    anchors = []
    for part in vectors.split(chunk_size or len(vectors)):
        shifted = part.clone()
        shifted[:, -1] += margin
        # min |v - t|^2 with <v, s> + margin <= 0 on every point s is a projection onto a polar
        # cone: by Moreau t - v = S a with a >= 0, and a is the non-negative least squares of t by
        # the points. The margin moves t along the center's axis, as each point is 1 there.
        solution = nonnegative_least_squares(columns, shifted)
        residual = float(solution.residual.max())
        if residual > _LARGEST_RESIDUAL:
            raise RuntimeError(
                f"{name}: the anchor points did not converge (optimality violated by "
                f"{residual:.1e}); its points may be nearly equal at very large distance"
            )
        # lambda of the paper: t - v is it times the anchor, a convex combination of the points
        weight = solution.coefficients.sum(1, keepdim=True)
        # where t itself is feasible no point bears weight: the anchor is the support point, as
        # defined
        extreme = columns[:, (part @ columns).argmax(1)].mT
        # 0 / 0 where the weight is zero, which the choice below leaves out
        inner = (solution.coefficients @ columns.mT) / weight
        anchors.append(torch.where(weight > 0, inner, extreme))
    return torch.cat(anchors)


def _geometry(anchors: Tensor, vectors: Tensor, margin: float) -> Float[Tensor, "3"]:
    """Capacity, radius and dimension from anchor points and their vectors, (T, D + 1) each."""
    field = ((anchors * vectors).sum(1) + margin).clamp_min(0.0)
    # |t - v|^2 by the anchor alone: (<t, s> + margin)_+^2 / |s|^2, and 1 / alpha is its mean
    capacity = 1 / (field.square() / anchors.square().sum(1)).mean()
    axes, directions = anchors[:, :-1], vectors[:, :-1]
    radius = (axes - axes.mean(0)).square().sum(1).mean().sqrt()
    # A manifold without extent has no direction: the constant, the authors' own, makes it 0.
    lengths = (axes.square().sum(1) + 1e-12).sqrt() * directions.norm(dim=1).clamp_min(1e-300)
    cosine = ((axes * directions).sum(1) / lengths).mean()
    return torch.stack([capacity, radius, axes.shape[1] * cosine.square()])
