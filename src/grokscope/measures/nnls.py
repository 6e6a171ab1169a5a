r"""Non-negative least squares, exact and for many right-hand sides at once.

For every target t the solver finds a = argmin_{a >= 0} |S a - t|^2, where the m columns of S are
points. The method is Lawson and Hanson's active-set algorithm (*Solving Least Squares Problems*,
1974, chapter 23), run for all targets in step: each outer round evaluates every gradient with one
matrix product and refits every passive set with one batched Cholesky factorization. A round may
admit several points where the algorithm as published admits one; a problem whose round changes
nothing goes back to one at a time, so the objective still falls at every change of its passive
set and no set comes twice.

Cost for T targets in D dimensions: O(T D m) for a round's gradients and O(T k^3) for its refits,
k being the largest passive set. About k/3 rounds are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.precision import without_autocast
from grokscope.shown import shown

_BLOCK = 8  # points that one round may admit to a passive set
_NEAR_BEST = 0.5  # ... if their gradient is at least this share of the steepest
_GRAM_LIMIT = 4096  # points up to which the Gram matrix (m, m) is kept
_WEAK_PIVOT = 1e-10  # squared sine between a point and the others, below which Cholesky is not used
_DEPENDENT = 1e-13  # sine below which a point counts as a combination of the others


@shown()
@dataclass(frozen=True, repr=False)
class NonnegativeSolution:
    """Coefficients and how well they satisfy the optimality conditions.

    Attributes:
        coefficients: (T, m), non-negative; zero exactly where a point is not in use.
        residual: (T,) largest violation of the Karush-Kuhn-Tucker conditions, |S^T (t - S a)| on
            the points in use and its positive part on the others, relative to |s_j| |t|.
        num_rounds: outer rounds taken.
    """

    coefficients: Float[Tensor, "T m"]
    residual: Float[Tensor, " T"]
    num_rounds: int


class _Problems:
    """The T problems: their data, gradients and refits.

    ``points`` is (D, m), shared by all problems, or (T, D, m). ``signs`` (T, m), for shared points
    only, replaces column j of problem i by ``signs[i, j] * points[:, j]`` without forming it.
    """

    def __init__(self, points: Tensor, targets: Tensor, signs: Tensor | None) -> None:
        # Unit columns, so that rounding errors in the gradients are of one size.
        lengths = points.norm(dim=-2, keepdim=True)
        self.lengths = torch.where(lengths > 0, lengths, 1.0)
        points = points / self.lengths
        self.points = points
        self.targets = targets
        self.signs = signs
        self.shared = points.ndim == 2
        keep_gram = self.shared and points.shape[-1] <= _GRAM_LIMIT
        self.gram = points.mT @ points if keep_gram else None
        self.products = targets @ points if self.shared else None
        self.scale = targets.norm(dim=1).clamp_min(torch.finfo(points.dtype).tiny)

    def gradient(self, rows: Tensor, coefficients: Tensor) -> Tensor:
        """S^T (t - S a) for the problems ``rows``, shape (B, m)."""
        if self.shared:
            signed = coefficients if self.signs is None else coefficients * self.signs[rows]
            result = (self.targets[rows] - signed @ self.points.mT) @ self.points
            return result if self.signs is None else result * self.signs[rows]
        points = self.points[rows]
        gap = self.targets[rows].unsqueeze(2) - points @ coefficients.unsqueeze(2)
        return (points.mT @ gap).squeeze(2)

    def refit(self, rows: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
        """Least squares on each problem's passive points, (B, m), and which were dependent, (B,).

        Signs need no signed matrix: the fit to flipped columns is the flipped fit.
        """
        index, used = _pack(passive)
        columns = self._columns(rows, index) if self.gram is None else self.points
        if self.gram is None:
            gram = columns.mT @ columns
        else:
            # One flat index is several times cheaper than a pair of them.
            flat = index.unsqueeze(2) * len(self.gram) + index.unsqueeze(1)
            gram = self.gram.flatten().index_select(0, flat.flatten()).view(flat.shape)
        share = used.to(gram.dtype)
        gram *= share.unsqueeze(2)
        gram *= share.unsqueeze(1)
        squares = gram.diagonal(dim1=1, dim2=2)
        # padding becomes rows of the identity: the factorization goes through and the fit there is
        # 0
        squares += (~used).to(gram.dtype)
        factor, info = torch.linalg.cholesky_ex(gram)
        # a pivot over its diagonal is the squared sine between a point and those before it
        pivots = factor.diagonal(dim1=1, dim2=2).square() / squares
        weak = (info > 0) | ~(pivots > _WEAK_PIVOT).all(1)
        if self.products is not None:
            right = self.products[rows].gather(1, index)
        else:
            right = (columns.mT @ self.targets[rows].unsqueeze(2)).squeeze(2)
        fit = torch.cholesky_solve((right * used).unsqueeze(2), factor).squeeze(2)
        dependent = torch.zeros_like(weak)
        if bool(weak.any()):
            fit[weak], dependent[weak] = self._refit_by_qr(rows[weak], index[weak], used[weak])
        result = torch.zeros(passive.shape, dtype=fit.dtype, device=fit.device)
        result.scatter_add_(1, index, torch.where(used, fit, 0.0))
        return (result if self.signs is None else result * self.signs[rows]), dependent

    def _refit_by_qr(self, rows: Tensor, index: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """The same fit without squaring the condition number, for nearly dependent points."""
        columns = self._columns(rows, index) * used.unsqueeze(1)
        unused = torch.diag_embed((~used).to(columns.dtype))
        stacked = torch.cat([columns, unused], dim=1)
        q, r = torch.linalg.qr(stacked)
        sine = r.diagonal(dim1=1, dim2=2).abs() / stacked.norm(dim=1)
        dependent = ~(sine > _DEPENDENT).all(1)
        right = q[:, : columns.shape[1]].mT @ self.targets[rows].unsqueeze(2)
        # dependent sets are thrown away by the caller: a triangle that can be solved will do
        safe = torch.where(dependent[:, None, None], torch.eye(r.shape[1]).to(r), r)
        return torch.linalg.solve_triangular(safe, right, upper=True).squeeze(2), dependent

    def _columns(self, rows: Tensor, index: Tensor) -> Tensor:
        """The points at ``index`` (B, k) of the problems ``rows``, unsigned: (B, D, k)."""
        if self.shared:
            return self.points[:, index].movedim(0, 1)
        return self.points[rows].gather(2, index.unsqueeze(1).expand(-1, self.points.shape[1], -1))


def _pack(passive: Bool[Tensor, "B m"]) -> tuple[Int[Tensor, "B k"], Bool[Tensor, "B k"]]:
    """The indices of each row's passive points, padded with 0, and which entries are used."""
    count = passive.sum(1)
    width = max(int(count.max()), 1)
    row, column = passive.nonzero(as_tuple=True)
    index = torch.zeros(len(passive), width, dtype=torch.long, device=passive.device)
    index[row, (passive.cumsum(1) - 1)[row, column]] = column
    used = torch.arange(width, device=passive.device) < count.unsqueeze(1)
    return index, used


def _descend(
    problems: _Problems, rows: Tensor, start: Tensor, passive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the feasible ``start``, fit the passive points without letting any turn negative.

    Returns coefficients, the passive points kept, and whether those tried were dependent (the
    coefficients then mean nothing). Each pass frees a point of every problem at work, so it ends.
    """
    current, passive = start.clone(), passive.clone()
    dependent = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    todo = torch.arange(len(rows), device=rows.device)
    while len(todo):
        fit, degenerate = problems.refit(rows[todo], passive[todo])
        dependent[todo] = degenerate
        negative = passive[todo] & (fit <= 0)
        done = ~negative.any(1) & ~degenerate
        current[todo[done]] = fit[done]
        going = negative.any(1) & ~degenerate
        todo, fit, negative = todo[going], fit[going], negative[going]
        here = current[todo]
        # Lawson and Hanson's inner loop: go from the feasible point towards the fit until the first
        # coefficient reaches zero, drop it, fit again.
        way = torch.where(negative, torch.where(here > 0, here / (here - fit), 0.0), torch.inf)
        step = way.amin(1, keepdim=True)
        leaving = negative & (way <= step)
        kept = passive[todo] & ~leaving
        current[todo] = torch.where(kept, here + step * (fit - here), 0.0).clamp_min(0.0)
        passive[todo] = kept
    return current, passive, dependent


@checked_arguments
@without_autocast
def nonnegative_least_squares(
    points: Float[Tensor, "*T D m"],
    targets: Float[Tensor, "T D"],
    signs: Float[Tensor, "T m"] | None = None,
) -> NonnegativeSolution:
    """The non-negative combinations of points that lie closest to each target.

    Args:
        points: (D, m), one set for all targets, or (T, D, m), a set for each.
        targets: (T, D).
        signs: (T, m) of +1 and -1: problem i uses ``signs[i, j] * points[:, j]`` (shared points).

    Returns:
        The coefficients (T, m) and their Karush-Kuhn-Tucker residual. Exact to rounding: float64
        is meant. Dependent points (duplicates, more points than dimensions) are allowed; which of
        them carry the weight is then arbitrary, S a is not.

    Raises:
        ValueError: if points or targets are empty or not finite, or the shapes or signs do not fit.

    Example:
        >>> import grokscope as gs, torch
        >>> target = torch.tensor([[3.0, -2.0]], dtype=torch.float64)
        >>> points = torch.eye(2, dtype=torch.float64)
        >>> gs.nonnegative_least_squares(points, target).coefficients
        tensor([[3., 0.]], dtype=torch.float64)
    """
    for name, given in (("points", points), ("targets", targets)):
        if given.numel() == 0 or not bool(torch.isfinite(given).all()):
            state = "holds NaN or infinity" if given.numel() else "is empty"
            raise ValueError(f"{name} {state}: got shape {tuple(given.shape)}")
    if points.ndim not in (2, 3) or (points.ndim == 3 and len(points) != len(targets)):
        raise ValueError(
            f"points must be (D, m), or ({len(targets)}, D, m), one for each row of targets: got "
            f"{tuple(points.shape)}"
        )
    if signs is not None and points.ndim != 2:
        raise ValueError(
            f"signs are for points (D, m) that all targets share: got points "
            f"{tuple(points.shape)}; multiply those by signs.unsqueeze(1) instead"
        )
    if signs is not None and not bool((signs.abs() == 1).all()):
        raise ValueError("signs must be +1 and -1: got other values; scale the points instead")
    problems = _Problems(points, targets, signs)
    coefficients, passive, num_rounds = _active_sets(problems)
    slope = problems.gradient(torch.arange(len(targets), device=points.device), coefficients)
    violation = torch.where(passive, slope.abs(), slope.clamp_min(0.0)).amax(1)
    coefficients = coefficients / problems.lengths.squeeze(-2)
    return NonnegativeSolution(coefficients, violation / problems.scale, num_rounds)


def _active_sets(problems: _Problems) -> tuple[Tensor, Tensor, int]:
    """The solution for unit columns, which points it uses, and the rounds taken."""
    points, num_problems = problems.points, len(problems.targets)
    num_points, device = points.shape[-1], points.device
    coefficients = torch.zeros(num_problems, num_points, dtype=points.dtype, device=device)
    passive = torch.zeros(num_problems, num_points, dtype=torch.bool, device=device)
    # what an inner product of D terms with a unit column is off by, relative to the target
    rounding = 10 * torch.finfo(points.dtype).eps * points.shape[-2] ** 0.5
    tolerance = (rounding * problems.scale).unsqueeze(1)
    block = torch.arange(min(_BLOCK, num_points), device=device)
    width = torch.full((num_problems,), _BLOCK, device=device)
    live = torch.arange(num_problems, device=device)
    # Exact arithmetic needs no limit; rounding could make two sets alternate for ever.
    limit = 3 * num_points + 100
    for num_rounds in range(limit):
        slope = problems.gradient(live, coefficients[live])
        slope = slope.masked_fill(passive[live], -torch.inf)
        steepest, index = slope.topk(len(block), dim=1)
        unfinished = steepest[:, 0] > tolerance[live, 0]
        live, steepest, index = live[unfinished], steepest[unfinished], index[unfinished]
        if not len(live):
            return coefficients, passive, num_rounds
        admitted = steepest > torch.maximum(_NEAR_BEST * steepest[:, :1], tolerance[live])
        admitted &= block < width[live].unsqueeze(1)
        before = passive[live]
        trial = before.scatter(1, index, before.gather(1, index) | admitted)
        fit, kept, dependent = _descend(problems, live, coefficients[live], trial)
        changed = ~dependent & (kept != before).any(1)
        moved, stuck = live[changed], live[~changed]
        coefficients[moved], passive[moved] = fit[changed], kept[changed]
        # The steepest point alone always lowers the objective, unless its slope is rounding error.
        finished = torch.zeros(num_problems, dtype=torch.bool, device=device)
        finished[stuck] = width[stuck] == 1
        width[moved], width[stuck] = _BLOCK, 1
        live = live[~finished[live]]
    return coefficients, passive, limit
