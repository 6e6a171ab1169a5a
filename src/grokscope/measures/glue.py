r"""Capacity and effective geometry of correlated manifolds (GLUE).

Where mean-field geometry removes the correlations between manifolds (``capacity.py``), here all
manifolds share one problem and correlations count. Source: Chou, Le, Wang and Chung, *Feature
Learning beyond the Lazy-Rich Dichotomy*, ICML 2025 (PMLR 267:10700), Algorithm 2; the theory is
Chou et al., bioRxiv 2024.02.26.582157, after Wakhloo, Sussman and Chung, Physical Review Letters
131:027301 (2023).

For labels y in {-1, 1}^P and t ~ N(0, I_N), project t onto the cone spanned by y_i x over the
points x of all manifolds i. The projection sum_j a_j y_j x_j, a >= 0, is a non-negative least
squares problem; s_i = sum a_j x_j / sum a_j over manifold i is its anchor point. With anchors in
the rows of S (P, N), S0 = <S> and S1 = S - S0,

    a = |projection|^2                              capacity  = P / <a>
    b = (S1 t)' (S1 S1')^+ (S1 t)                   dimension = <b> / P
    c = (S1 t)' (S0 S0' + S1 S1')^+ (S1 t)          radius    = sqrt(<c> / <b - c>)
                                                    utility   = <c> / <a>

so that capacity = utility (1 + radius^-2) / dimension exactly.

A manifold may have no point in a projection. It then takes, as in the mean-field theory, the point
nearest to being used; the paper leaves this case open. Alignments are mean absolute cosines between
different manifolds: of centers S0, of axes S1, of one's center with another's axis.

Cost: ``num_samples`` problems with all M points, O(N M) a round, and O(P^2 N + P^3) each after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_chunk_size, check_count
from grokscope.measures.manifolds import check_manifolds
from grokscope.measures.nnls import nonnegative_least_squares
from grokscope.measures.precision import without_autocast
from grokscope.measures.spectra import gram_eigen
from grokscope.shown import shown

_NO_EXTENT = 1e-14  # squared extent, relative to the anchors', that is rounding


@shown()
@dataclass(frozen=True, repr=False)
class GlueGeometry:
    """Joint geometry of P manifolds, in float64 scalars.

    Attributes:
        capacity: manifolds per dimension that a random dichotomy can separate.
        dimension: effective dimension of the anchor points' variation.
        radius: effective radius of that variation, in units of the centers; 0 without variation.
        utility: share of the capacity-limiting field that the variation explains, 0 without.
        center_alignment: mean absolute cosine between the centers of different manifolds.
        axis_alignment: the same between their axes.
        center_axis_alignment: the same between one's center and another's axis.
    """

    capacity: Float[Tensor, ""]
    dimension: Float[Tensor, ""]
    radius: Float[Tensor, ""]
    utility: Float[Tensor, ""]
    center_alignment: Float[Tensor, ""]
    axis_alignment: Float[Tensor, ""]
    center_axis_alignment: Float[Tensor, ""]


@torch.no_grad()
@checked_arguments
@without_autocast
def glue_geometry(
    manifolds: Sequence[Tensor] | Tensor,
    num_samples: int = 200,
    generator: torch.Generator | None = None,
    t: Float[Tensor, "T N"] | None = None,
    labels: Shaped[Tensor, "T P"] | None = None,
    chunk_size: int | None = None,
) -> GlueGeometry:
    """Capacity, effective dimension, radius, utility and alignments of correlated manifolds.

    Args:
        manifolds: one (m_i, N) tensor for each class, at least two; or one (P, m, N) tensor. The
            hyperplanes pass through the origin: center the data first if it should not matter.
        num_samples: pairs of Gaussian vector and labels.
        generator: of both; None for a fixed stream of its own.
        t: the Gaussian vectors themselves, (num_samples, N).
        labels: the labels themselves, (num_samples, P), of +1 and -1; random where absent.
        chunk_size: samples handled at once; None for all. One takes about 16 bytes a point and
            8 N bytes a manifold.

    Raises:
        ValueError: for fewer than two manifolds, shapes that do not fit, NaN, labels other than +1,
            -1.

    Example:
        >>> import grokscope as gs, torch
        >>> points = torch.eye(20).unsqueeze(1)
        >>> bool(abs(gs.glue_geometry(points, num_samples=500).capacity - 2) < 0.1)
        True
    """
    clouds = check_manifolds(manifolds)
    check_chunk_size(chunk_size)
    check_count("num_samples", num_samples)
    columns = torch.cat(clouds).mT
    sizes = torch.tensor([len(points) for points in clouds])
    owner = torch.repeat_interleave(torch.arange(len(clouds)), sizes).to(columns.device)
    # Only the span of the points matters: N features may be many more than points.
    if len(columns) > columns.shape[1]:
        basis, columns = torch.linalg.qr(columns)
    else:
        basis = torch.eye(len(columns)).to(columns)
    if t is not None:
        num_samples = len(t)
    elif labels is not None:
        num_samples = len(labels)
    generator = generator or torch.Generator().manual_seed(0)
    vectors = _vectors(t, num_samples, basis, generator)
    signs = _labels(labels, (len(vectors), len(clouds)), generator).to(vectors)
    size = chunk_size or len(vectors)
    parts = [
        _anchors(columns, owner, part, side)
        for part, side in zip(vectors.split(size), signs.split(size), strict=True)
    ]
    anchors = torch.cat([anchor for anchor, _ in parts])
    return _measures(anchors, vectors, torch.cat([squared for _, squared in parts]))


def _vectors(
    t: Tensor | None, num_samples: int, basis: Tensor, generator: torch.Generator
) -> Float[Tensor, "T D"]:
    """The Gaussian vectors in the coordinates of ``basis`` (N, D)."""
    if t is None:
        shape = (num_samples, basis.shape[1])
        draw = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return draw.to(basis.device)
    if t.ndim != 2 or t.shape[1] != len(basis) or not bool(torch.isfinite(t).all()):
        raise ValueError(
            f"t must be finite and of shape (num_samples, {len(basis)}): got {tuple(t.shape)}"
        )
    return t.detach().to(basis) @ basis


def _labels(labels: Tensor | None, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """The labels given, or fair coins."""
    if labels is None:
        return 2 * torch.randint(2, shape, generator=generator, device=generator.device) - 1
    fits = labels.shape == shape
    if not fits or not bool((labels.abs() == 1).all()):
        got = "other values" if fits else f"shape {tuple(labels.shape)}"
        raise ValueError(f"labels must be +1 and -1 in shape {shape}: got {got}")
    return labels


def _anchors(
    columns: Tensor, owner: Tensor, vectors: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Anchor points (T, P, D) and squared length of the projections (T,)."""
    signs, count = labels[:, owner], labels.shape[1]
    solution = nonnegative_least_squares(columns, vectors, signs)
    weight = solution.coefficients
    # the cone is that of the points times their labels: signs belong to the points, so that the
    # anchors below, which are points of the manifolds, are built without them
    projection = (weight * signs) @ columns.mT
    # The anchor of manifold i is the mean of its points weighted by the solution; where none bears
    # weight, the point of least margin, to which the weight would go first.
    slack = ((vectors - projection) @ columns) * signs
    anchors = vectors.new_empty(len(vectors), count, len(columns))
    for i in range(count):
        mine = owner == i
        points, share = columns[:, mine].mT, weight[:, mine]
        total = share.sum(1, keepdim=True)
        nearest = points[slack[:, mine].argmax(1)]
        anchors[:, i] = torch.where(total > 0, share @ points / total, nearest)
    return anchors, projection.square().sum(1)


def _measures(anchors: Tensor, vectors: Tensor, squared: Tensor) -> GlueGeometry:
    count = anchors.shape[1]
    centers = anchors.mean(0)
    axes = anchors - centers
    # (T, P) field and (T, P, P) Gram matrix of the axes of each sample, the centers taken out
    field = (axes @ vectors.unsqueeze(2)).squeeze(2)
    spread = axes @ axes.mT
    floor = _NO_EXTENT * float(anchors.square().sum(2).max()) * count
    # a: the length of the projection; b: as if the centers were not there; c: centers and axes in
    # one Gram matrix. Dimension, radius and utility are ratios of these three means.
    b = _quadratic(field, spread, floor).mean()
    c = _quadratic(field, spread + centers @ centers.mT, floor).mean()
    a = squared.mean()
    alignments = _alignments(centers, axes, floor)
    # c < b, for the Gram matrix of c is larger by the centers; rounding may make them equal
    radius = torch.where(b > 0, (c / (b - c).clamp_min(0.0)).sqrt(), 0.0)
    return GlueGeometry(count / a, b / count, radius, c / a, *alignments)


def _quadratic(field: Tensor, gram: Tensor, floor: float) -> Tensor:
    """F' G^+ f for each sample, directions of squared extent below ``floor`` left out."""
    values, axes = gram_eigen(gram)
    along = (axes.mT @ field.unsqueeze(2)).squeeze(2)
    return torch.where(values > floor, along.square() / values, 0.0).sum(1)


def _alignments(centers: Tensor, axes: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    def unit(rows: Tensor) -> Tensor:
        squared = rows.square().sum(-1, keepdim=True)
        return torch.where(squared > floor, rows / squared.sqrt(), 0.0)

    def between(first: Tensor, second: Tensor) -> Tensor:
        cosines = (first @ second.mT).abs()
        count = cosines.shape[-1]
        own = cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
        return ((cosines.sum((-2, -1)) - own) / (count * (count - 1))).mean()

    centers, axes = unit(centers), unit(axes)
    return between(centers, centers), between(axes, axes), between(centers, axes)
