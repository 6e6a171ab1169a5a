r"""The low-rank structure that the manifolds' centers share.

Centers x_1..x_P (rows of X, their mean removed) may be correlated, which mean-field theory does not
foresee. Cohen, Chung, Lee and Sompolinsky (2020, *Nature Communications* 11:746, Methods) look for
the k directions V whose removal leaves them least correlated,

    minimize over V' V = I   F(V) = 1/2 sum_{i,j} C_ij^2 / (C_ii C_jj),   C = X X' - X V V' X',

for k = 1, 2, ..., keep of ten starts the most stable solution (the one whose most shrunken center
shrinks least), and take the k that leaves the smallest mean absolute correlation. In their code the
starts are uniformly random subspaces (the start that it builds from the solution before is never
passed on), and a descent is a thousand conjugate gradient steps.

F has many local minima, so the published recipe returns another subspace, at times of another
rank, for other random starts. Three things differ here. The starts are more, and come from one
fixed stream, in axes and an order that the centers' rounded Gram matrix decides, so that the result
depends on no seed, order or rotation. A descent goes on until F hardly falls, and the subspace
chosen is settled by Newton's method. And while one direction more lowers F, a minimum that leaves
more correlation than the rank before is passed over: it cannot be the answer. Few starts end in
such a minimum, but it may be very stable, so that whether ten met one would decide K by chance.

Cost: ``center_search.py`` has that of a step; the centers enter by their Gram matrix alone, so the
number of features does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.center_search import Array, evaluate, minima, polish
from grokscope.measures.inputs import check_batch, check_count
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown

_STARTS = 1000  # over the number of centers; 10, as published, at least and 100 at most
_GRID = 2.0**28  # of the rounded Gram matrix: far above float64's errors, far below what matters
_FINAL_GRADIENT = 1e-11
_NEWTON_STEPS = 25
_SLACK = 0.1  # share of its stability that a solution may lose to Newton's method
_VARIANCE = 0.95
_EXTRA_RANKS = 10


@dataclass(frozen=True)
class RankCandidates:
    """The distinct minima that the search met at one rank, the one it kept first.

    Attributes:
        stability: (c,) least share of a center's squared length that is kept.
        residual_correlation: (c,) mean absolute correlation that each leaves.
        distance: (c,) sine of the largest angle between each and the first.
    """

    stability: Float[Tensor, " c"]
    residual_correlation: Float[Tensor, " c"]
    distance: Float[Tensor, " c"]


@shown("num_components", "correlation", "residual_correlations", "subspace")
@dataclass(frozen=True, repr=False)
class CenterStructure:
    """The subspace to remove and how it was chosen.

    Attributes:
        subspace: (N, K), orthonormal columns.
        correlation: mean absolute off-diagonal correlation of the centers before removal.
        residual_correlations: the same after removing nothing, one direction, two, ...
        candidates: for one direction, two, ...: the minima met. Where the first two are about
            equally stable and far apart, the published recipe may return either.
    """

    subspace: Float[Tensor, "N K"]
    correlation: Float[Tensor, ""]
    residual_correlations: Float[Tensor, " ranks"]
    candidates: tuple[RankCandidates, ...] = ()

    @property
    def num_components(self) -> int:
        """K, the rank removed."""
        return self.subspace.shape[1]


@checked_arguments
@without_autocast
def center_structure(
    centers: Float[Tensor, "P N"],
    num_starts: int | None = None,
    min_components: int = 1,
) -> CenterStructure:
    """The subspace whose removal leaves the centers least correlated.

    Args:
        centers: (P, N) mean of each manifold; their mean is subtracted here.
        num_starts: starts for every rank; None for 1000 / P, at least 10 and at most 100.
        min_components: 1, as published, or 0 to allow that nothing is removed. Centers on a line,
            those of two manifolds always, leave nothing to remove: K = 0 either way.

    Raises:
        ValueError: if a center coincides with the mean of the centers.

    Example:
        >>> import grokscope as gs, torch
        >>> centers = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
        >>> gs.center_structure(centers).num_components
        1
    """
    if len(centers) < 2:
        raise ValueError(f"centers must hold two or more, a row each: got {tuple(centers.shape)}")
    check_batch(centers, "centers")
    num_starts = min(max(_STARTS // len(centers), 10), 100) if num_starts is None else num_starts
    check_count("num_starts", num_starts)
    if min_components not in (0, 1):
        raise ValueError(f"min_components must be 0 or 1: got {min_components}")
    centered = centers.double() - centers.double().mean(0)
    coordinates, basis = _principal_coordinates(centered)
    correlation = mean_correlation(centered)
    if coordinates.shape[1] > 1:
        _check_centers(centered)
    exact = coordinates.cpu().numpy()
    frames = [exact[:0].T]
    candidates: list[RankCandidates] = []
    if exact.shape[1] > 1:
        rounded, turn = _canonical_coordinates(exact)
        kept, candidates = _ranks(rounded, num_starts)
        frames += [turn @ frame for frame in kept]
    first = min(min_components, len(candidates))
    left = [float(correlation), *(float(c.residual_correlation[0]) for c in candidates)]
    rank = first + int(np.argmin(left[first:]))
    if rank:
        frames[rank] = _settled(exact, frames[rank])
        left[rank] = _correlation_left(exact, frames[rank])
        candidates[rank - 1].stability[0] = float(evaluate(exact, frames[rank][None])[3][0])
        candidates[rank - 1].residual_correlation[0] = left[rank]
    subspace = _as_published(centers, basis @ torch.from_numpy(frames[rank]).to(basis))
    return CenterStructure(subspace, correlation, basis.new_tensor(left), tuple(candidates))


def _ranks(centers: Array, num_starts: int) -> tuple[list[Array], list[RankCandidates]]:
    """For ranks 1, 2, ...: the frame kept and the minima met; ends as published."""
    stream = np.random.default_rng(0)  # of the random starts: the same at every call
    rank = centers.shape[1]
    kept: list[Array] = []
    candidates: list[RankCandidates] = []
    cost = np.inf
    for k in range(1, min(_rank_limit(centers), rank - 1) + 1):
        starts = np.linalg.qr(stream.standard_normal((num_starts, rank, k)))[0]
        found = minima(centers, starts)
        left = np.array([_correlation_left(centers, frame) for frame in found.frame])
        # While a further direction lowers F, minima that leave more correlation than the rank
        # before go to the end, the others stay in order of stability; see the module's third
        # difference.
        if k > 1 and found.cost.min() < cost:
            worse = left > float(candidates[-1].residual_correlation[0])
            order = np.argsort(worse, kind="stable")
            found, left = found.take(order), left[order]
        cost = found.cost[0]
        kept.append(found.frame[0])
        cosines = np.linalg.svd(found.frame[0].T @ found.frame, compute_uv=False)[:, -1]
        distance = np.sqrt(np.clip(1 - cosines**2, 0.0, None))
        columns = (torch.from_numpy(c) for c in (found.stability, left, distance))
        candidates.append(RankCandidates(*columns))
        recent = [float(c.residual_correlation[0]) for c in candidates[-4:]]
        # as published: three increases in a row end the search
        if k > 4 and all(b > a for a, b in pairwise(recent)):
            break
    return kept, candidates


def _correlation_left(centers: Array, frame: Array) -> float:
    left = torch.from_numpy(centers - (centers @ frame) @ frame.T)
    return float(mean_correlation(left))


def _settled(centers: Array, frame: Array) -> Array:
    """The minimum next to ``frame``; or ``frame``, where a valley would lead far away from it."""
    least = (1 - _SLACK) * float(evaluate(centers, frame[None])[3][0])
    end = polish(centers, frame, _FINAL_GRADIENT, _NEWTON_STEPS, least)
    return end.frame[0] if end.stability[0] >= least else frame


def mean_correlation(centers: Float[Tensor, "P N"]) -> Float[Tensor, ""]:
    """Mean absolute cosine between different rows; a zero row counts as uncorrelated."""
    lengths = centers.norm(dim=1, keepdim=True)
    unit = centers / lengths.clamp_min(torch.finfo(centers.dtype).tiny)
    count = len(centers)
    cosines = (unit @ unit.mT).abs()
    return (cosines.sum() - cosines.trace()) / (count * (count - 1))


def principal_signs(rows: Float[Tensor, "k n"]) -> Float[Tensor, "k 1"]:
    """+1 or -1 that makes each row's third moment positive, so that an axis has one sense."""
    return torch.where(rows.pow(3).sum(1, keepdim=True) < 0, -1.0, 1.0).to(rows.dtype)


def _principal_coordinates(centered: Tensor) -> tuple[Tensor, Tensor]:
    """The centers in their principal axes, (P, r), of unit largest spread; the axes (N, r)."""
    left, values, axes = torch.linalg.svd(centered, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum())
    left, values, axes = left[:, :rank], values[:rank], axes[:rank].mT
    signs = principal_signs(left.mT).mT
    return left * signs * (values / values[:1]), axes * signs


def _canonical_coordinates(exact: Array) -> tuple[Array, Array]:
    """The same centers (P, r) to the last bit for every order and rotation, and the turn back.

    They are a square root of the Gram matrix, rounded so coarsely that rounding errors are gone,
    with rows in an order of their own. ``turn`` (r, r) takes the new axes to those of ``exact``.
    """
    gram = exact @ exact.T
    gram = np.round(gram * (_GRID / gram.diagonal().max())) / _GRID
    # Rows in the order of their lengths, then of their sorted products: neither changes with the
    # order in which the centers came, nor with a rotation of the features.
    order = np.lexsort(np.column_stack([np.sort(gram), gram.diagonal()]).T)
    gram = gram[np.ix_(order, order)]
    values, axes = np.linalg.eigh(gram)
    rank = exact.shape[1]
    axes, values = axes[:, ::-1][:, :rank], values[::-1][:rank]
    rounded = axes * np.sqrt(values.clip(0.0))
    # orthogonal Procrustes: the rotation that takes the rounded coordinates nearest to the exact
    left, _, right = np.linalg.svd(exact[order].T @ rounded)
    return rounded, left @ right


def _rank_limit(centers: Array) -> int:
    """As published: the ranks that explain less than 95 %, one at least, and ten more."""
    variance = np.square(centers).sum(0)
    explained = variance.cumsum() / variance.sum()
    return max(int((explained < _VARIANCE).sum()), 1) + _EXTRA_RANKS


def _as_published(centers: Tensor, subspace: Tensor) -> Tensor:
    """The same subspace in the published basis: NumPy's QR of the centers, features first.

    Features that never vary differ by rounding errors between bases, and the coordinates of a later
    thin QR take their signs from them. Vectors t recorded in those coordinates need that basis.
    """
    columns = np.ascontiguousarray(centers.double().mT.cpu().numpy())
    columns = columns - columns.mean(1, keepdims=True)
    basis = torch.from_numpy(np.linalg.qr(columns)[0][:, : len(centers) - 1]).to(subspace.device)
    return basis @ (basis.mT @ subspace)


def _check_centers(centered: Tensor) -> None:
    lengths = centered.norm(dim=1)
    vanished = (lengths <= 1e-10 * lengths.max()).nonzero()
    if len(vanished):
        raise ValueError(
            f"centers[{int(vanished[0])}], of that manifold, is the mean of all centers, so its "
            "correlation with the others is undefined; leave it out, or pass correlations='keep' "
            "to manifold_geometry"
        )
