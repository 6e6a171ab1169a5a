r"""Minima of the centers' squared correlations over k-dimensional subspaces, the most stable first.

With C = X X' - X V V' X' for the P centers X and an orthonormal frame V of the subspace removed,

    F(V) = 1/2 sum_ij g_ij^2,   g_ij = C_ij / sqrt(C_ii C_jj),

depends on the span of V alone. F has many minima, and its valleys are long. Which minimum a start
leads to is decided in its first few steps, so those are the published ones (``leave``: conjugate
gradients with a bold line search); a quasi-Newton method then goes down many times faster than they
would (``descend``), and Newton's with the whole Hessian settles the subspace chosen (``polish``).

Cost: a step of ``leave`` or ``descend`` O(P^2 k) a start, of ``polish`` O((k (r - k))^3), r = P-1.
NumPy on the host: the matrices are so small that it is the cost of a call that counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Array = NDArray[np.float64]

_TINY = 1e-60  # three such factors still do not overflow
_RIDGE = 0.1  # of the mean eigenvalue, added to the preconditioner
_AT_ONCE = 100_000  # numbers of history that stay in the cache; larger batches are split
_FIRST_STEPS = 6
_BLOCK = 30  # steps of a descent between two choices of the starts that go on
_MOST_BLOCKS = 12
_FEWEST = 4  # starts that go on at least
_COLLAPSED = 1e-5  # stability at which a start has removed a center
_FAR = 0.5  # share of a settled start's stability below which others are left
_FLAT = 1e-4  # share of F that a settled start loses in a block at most
_LEVEL = 0.1  # gradient norm of a settled start at most
_MET = 1e-3  # sum of squared sines of two subspaces below which two starts have met
_SAME = 0.02  # ... below which two settled ones count as one


@dataclass
class Points:
    """Where the starts stand: orthonormal frames (b, r, k), F, |gradient| and stability (b,)."""

    frame: Array
    cost: Array
    slope: Array
    stability: Array

    @staticmethod
    def joined(parts: list[Points]) -> Points:
        """All of them, in order."""
        names = ("frame", "cost", "slope", "stability")
        return Points(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def take(self, index: NDArray[np.intp]) -> Points:
        """Those at ``index``."""
        return Points(self.frame[index], self.cost[index], self.slope[index], self.stability[index])

    def put(self, index: NDArray[np.intp], other: Points) -> None:
        """Replace those at ``index``."""
        self.frame[index], self.cost[index] = other.frame, other.cost
        self.slope[index], self.stability[index] = other.slope, other.stability


def minima(centers: Array, starts: Array) -> Points:
    """The distinct minima of F that the orthonormal starts (b, r, k) lead to, most stable first.

    All starts descend together, in blocks of steps. After each block, of starts that have met one
    goes on; so does the more stable half of the others. A start ends when a block hardly lowers F.
    """
    points = first = descend(centers, leave(centers, starts, _FIRST_STEPS), _BLOCK)
    found: list[Points] = []
    for _ in range(_MOST_BLOCKS):
        points = _distinct(points.take(np.flatnonzero(points.stability > _COLLAPSED)), _MET)
        num_going = max(_FEWEST, len(points.cost) // 2)
        points = points.take(np.arange(min(num_going, len(points.cost))))
        best = max((float(f.stability.max(initial=0.0)) for f in found), default=0.0)
        points = points.take(np.flatnonzero(points.stability > _FAR * best))
        if not len(points.cost):
            break
        before = points.cost
        points = descend(centers, points.frame, _BLOCK)
        settled = (before - points.cost < _FLAT * before) & (points.slope < _LEVEL)
        found.append(points.take(np.flatnonzero(settled)))
        points = points.take(np.flatnonzero(~settled))
    ends = Points.joined([*found, first.take(np.arange(0))])
    # In a long valley none may settle in the steps allowed: what stands then has to do.
    return _distinct(ends if len(ends.cost) else (points if len(points.cost) else first), _SAME)


def _distinct(points: Points, closer: float) -> Points:
    """Without those near a more stable one, by the sum of squared sines; the most stable first."""
    kept: list[int] = []
    k = points.frame.shape[2]
    for i in np.argsort(-points.stability, kind="stable"):
        overlaps = points.frame[kept].swapaxes(1, 2) @ points.frame[i]
        if not (k - np.square(overlaps).sum((1, 2)) < closer).any():
            kept.append(int(i))
    return points.take(np.array(kept, dtype=np.intp))


def evaluate(centers: Array, frame: Array) -> tuple[Array, Array, Array, Array]:
    """F (b,), its gradient in the frame (b, r, k), an orthonormal frame, and the stability (b,).

    The stability is the squared share of its length that the most shrunken center keeps. With
    B = X V and W_ij = C_ij / (C_ii C_jj): dF = -2 <M B, dB>, where M is W less
    sum_j C_ij W_ij / C_ii on its diagonal.
    """
    gram = centers @ centers.T
    # Frames need not be orthonormal: with V'V = L L', V L^-T is. F depends on the span alone, so
    # the gradient by V is that by the orthonormal frame times L^-1, applied at the end.
    inverse = np.linalg.inv(np.linalg.cholesky(frame.swapaxes(1, 2) @ frame))
    space = frame @ inverse.swapaxes(1, 2)
    shadow = centers @ space
    # (b, P, P) is C itself: what is left of the Gram matrix once the subspace is removed
    left = shadow @ shadow.swapaxes(1, 2)
    np.subtract(gram, left, out=left)
    squared = np.einsum("bii->bi", left).copy()
    # squared lengths left over those before: the published stability is the least of them
    kept = (squared / gram.diagonal()).min(1)
    reciprocal = 1 / np.maximum(squared, _TINY * gram.diagonal())
    # in place, and in two products: (b, P, P) temporaries are what the call costs
    weight = left * reciprocal[:, :, None]
    weight *= reciprocal[:, None, :]
    squares = np.einsum("bij,bij->bi", left, weight)
    # A center removed to the last digit has no direction: F is not defined there.
    cost = np.where(kept > 0, 0.5 * squares.sum(1), np.inf)
    np.einsum("bii->bi", weight)[...] -= squares * reciprocal
    slope = -2 * (centers.T @ (weight @ shadow))
    # Horizontal: steps within the span change nothing, and rounding must not build one up.
    slope -= space @ (space.swapaxes(1, 2) @ slope)
    return cost, slope @ inverse, space, kept


def leave(centers: Array, space: Array, num_steps: int) -> Array:
    """The first steps from orthonormal frames (b, r, k), as published: frames again.

    Conjugate gradients on the Stiefel manifold (Hestenes and Stiefel's factor, retraction by QR).
    A step is tried at twice the last length, at 1 the first time, and halved until F falls by half
    of what its slope promises.
    """
    cost, slope, _, _ = evaluate(centers, space)
    direction = -slope
    length = 1 / np.maximum(np.sqrt(_inner(slope, slope)), _TINY)
    for _ in range(num_steps):
        # written so that NaN starts anew along the gradient too
        uphill = ~(_inner(slope, direction) < 0)
        direction[uphill] = -slope[uphill]
        # Armijo's condition with the factor 1/2, as published: bold steps that fall far, or none.
        promise = 0.5 * _inner(slope, direction)
        space, cost, new, length, halvings = _halved_step(
            centers, space, cost, slope, direction, length, promise
        )
        # Hestenes and Stiefel: beta = <g', g' - g> / <d, g' - g>, the old vectors carried to the
        # new frame by projection. A negative factor would turn back, and 0 restarts.
        turn = new - _tangent(space, slope)
        direction = _tangent(space, direction)
        curvature = _inner(turn, direction)
        factor = _inner(new, turn) / np.where(curvature == 0, np.inf, curvature)
        direction = np.maximum(factor, 0.0)[:, None, None] * direction - new
        slope = new
        # as published: after one halving the length was right and is kept, else twice that is tried
        length = np.where(halvings == 1, length, 2 * length)
    return space


def _halved_step(
    centers: Array,
    space: Array,
    cost: Array,
    slope: Array,
    direction: Array,
    length: Array,
    promise: Array,
) -> tuple[Array, Array, Array, Array, NDArray[np.intp]]:
    """Frames after the step, F and its slope there, the step's length, and how often it halved."""
    limit = cost
    space, cost, slope, length = space.copy(), cost.copy(), slope.copy(), length.copy()
    halvings = np.zeros(len(cost), dtype=np.intp)
    todo = np.arange(len(cost))
    # 2^-10 of the first length: a start that has not fallen by then stays where it is
    for _ in range(11):
        moved, upper = np.linalg.qr(space[todo] + length[todo, None, None] * direction[todo])
        # Columns keep their sense, or the next direction would not belong to the new frame.
        moved *= np.sign(np.einsum("baa->ba", upper))[:, None, :]
        value, steepness, _, _ = evaluate(centers, moved)
        fell = value <= limit[todo] + promise[todo] * length[todo]
        done = todo[fell]
        space[done], cost[done], slope[done] = moved[fell], value[fell], steepness[fell]
        todo = todo[~fell]
        if not len(todo):
            break
        length[todo] *= 0.5
        halvings[todo] += 1
    return space, cost, slope, length, halvings


def _tangent(space: Array, matrix: Array) -> Array:
    """``matrix`` without what would leave the orthonormal frames."""
    inner = space.swapaxes(1, 2) @ matrix
    return matrix - space @ (0.5 * (inner + inner.swapaxes(1, 2)))


def descend(centers: Array, space: Array, num_steps: int) -> Points:
    """``num_steps`` steps of preconditioned BFGS from every orthonormal frame (b, r, k).

    F depends on the span alone, so frames move freely in (r, k), gradients are horizontal and no
    transport is needed. The whole history of the call is kept; call again to forget it.
    """
    size = max(1, _AT_ONCE // (num_steps * space[0].size))
    parts = [
        _descend(centers, space[start : start + size], num_steps)
        for start in range(0, len(space), size)
    ]
    return Points.joined(parts)


def _descend(centers: Array, space: Array, num_steps: int) -> Points:
    b, r, k = space.shape
    # The preconditioner is a change of the frame's columns, which leaves its span and so F as they
    # are: BFGS then works in (r, k) coordinates in which the Hessian is closer to the identity.
    frame = space @ _preconditioner(centers, space)
    cost, slope, space, kept = evaluate(centers, frame)
    gradient = slope.reshape(b, -1)
    steps, turns = np.zeros((2, b, num_steps, r * k))
    curvature = np.zeros((b, num_steps))
    # Inverse of the triangle of inner products <step i, change of gradient j>, i <= j.
    inverse = np.zeros((b, num_steps, num_steps))
    for h in range(num_steps):
        direction = _direction(
            gradient, steps[:, :h], turns[:, :h], curvature[:, :h], inverse[:, :h, :h]
        )
        step, cost, slope, space, kept = _line_search(centers, frame, cost, gradient, direction)
        frame = frame + step.reshape(frame.shape)
        turn = slope.reshape(b, -1) - gradient
        gradient = gradient + turn
        # <s, y> > 0 keeps the inverse Hessian positive definite (Nocedal and Wright, section 6.1);
        # 1e-10 of |s| |y| is where float64 can no longer tell it from rounding.
        bend = _inner(step, turn)
        curved = bend > 1e-10 * np.sqrt(_inner(step, step) * _inner(turn, turn))
        # A step without curvature is remembered as zeros, so that all starts keep in time.
        steps[:, h], turns[:, h] = step * curved[:, None], turn * curved[:, None]
        curvature[:, h] = bend * curved
        # The triangle R_ij = <s_i, y_j> grows by a column at each step, and so does its inverse: [R
        # c; 0 p]^-1 = [R^-1, -R^-1 c / p; 0, 1 / p]. A step without curvature gets p = 1.
        pivot = np.where(curved, bend, 1.0)
        column = inverse[:, :h, :h] @ (steps[:, :h] @ turns[:, h, :, None])
        inverse[:, :h, h] = -column[:, :, 0] / pivot[:, None]
        inverse[:, h, h] = 1 / pivot
    # in an orthonormal frame: of the preconditioned one the length of the gradient means nothing
    _, slope, space, kept = evaluate(centers, space)
    return Points(space, cost, np.sqrt(_inner(slope.reshape(b, -1), slope.reshape(b, -1))), kept)


def _inner(first: Array, second: Array) -> Array:
    return np.einsum("bn,bn->b", first.reshape(len(first), -1), second.reshape(len(first), -1))


def _preconditioner(centers: Array, space: Array) -> Array:
    """Factors L (b, k, k): in the frame V L, F's curvature varies less with the direction.

    Where the rows of U, the unit vectors left of the centers, are nearly a tight frame, the Hessian
    is about 2 K K' for each feature, K = B' D U, with D the inverse lengths left.
    """
    shadow = centers @ space
    left = centers @ centers.T - shadow @ shadow.swapaxes(1, 2)
    lengths = np.sqrt(np.maximum(np.einsum("bii->bi", left), _TINY))
    scaled = shadow / lengths[:, :, None]
    cosines = left / lengths[:, :, None] / lengths[:, None, :]
    metric = scaled.swapaxes(1, 2) @ cosines @ scaled
    size = np.einsum("baa->b", metric)[:, None, None] / metric.shape[1]
    return np.linalg.cholesky(metric / np.maximum(size, _TINY) + _RIDGE * np.eye(metric.shape[1]))


def _line_search(
    centers: Array, frame: Array, cost: Array, gradient: Array, direction: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """A step (b, n) along each direction that lowers F, zero where none is found, and F there."""
    descent = _inner(gradient, direction)
    uphill = ~(descent < 0)
    # a history that rounding has spoiled points uphill: a short gradient step instead
    if uphill.any():
        direction = np.where(uphill[:, None], -0.1 * gradient, direction)
        descent = _inner(gradient, direction)
    step = direction.copy()
    result = list(evaluate(centers, frame + step.reshape(frame.shape)))
    # Near the minimum F is flat to rounding, and the quasi-Newton step is to be trusted.
    limit = cost * (1 + 1e-13)
    # Armijo with the usual 1e-4: a quasi-Newton step of length one is nearly always taken.
    failed = np.flatnonzero(~(result[0] <= limit + 1e-4 * descent))
    length = 1.0
    for trial in range(13):
        if not len(failed):
            break
        # 0.3^12 = 5e-7; the last trial, of length zero, restores where the start stands
        length = 0.3 * length if trial < 12 else 0.0
        step[failed] = length * direction[failed]
        values = evaluate(centers, frame[failed] + step[failed].reshape(-1, *frame.shape[1:]))
        for whole, part in zip(result, values, strict=True):
            whole[failed] = part
        failed = failed[~(values[0] <= limit[failed] + 1e-4 * length * descent[failed])]
    return step, result[0], result[1], result[2], result[3]


def _direction(
    gradient: Array, steps: Array, turns: Array, curvature: Array, inverse: Array
) -> Array:
    """The quasi-Newton direction in compact form (Byrd, Nocedal and Schnabel 1994, theorem 2.2).

    ``gradient`` (b, n); history (b, h, n), newest last, its inner products (b, h), and the inverse
    of their triangle (b, h, h).
    """
    if steps.shape[1] == 0:
        return -0.1 * gradient / np.maximum(np.sqrt(_inner(gradient, gradient)), _TINY)[:, None]
    newest = _inner(turns[:, -1], turns[:, -1])
    # <s, y> / <y, y> of the newest pair scales the first inverse Hessian (Nocedal and Wright,
    # 6.20), so that steps of length one are of the right size.
    size = np.where(newest > 0, curvature[:, -1] / np.maximum(newest, _TINY), 1.0)[:, None, None]
    column = gradient[:, :, None]
    first = inverse @ (steps @ column)
    # -H g for H = c I + S R^-T ((D + c Y'Y) R^-1 S' - c Y') - c Y R^-1 S', c the size, from the
    # right: the history's vectors, the columns of S and Y, are rows here
    changed = turns.swapaxes(1, 2) @ first
    middle = size * (turns @ (changed - column)) + curvature[:, :, None] * first
    second = inverse.swapaxes(1, 2) @ middle
    return (size * (changed - column) - steps.swapaxes(1, 2) @ second)[:, :, 0]


def polish(
    centers: Array, frame: Array, tolerance: float, max_steps: int, least_stable: float = 0.0
) -> Points:
    """The minimum next to one orthonormal frame (r, k), by damped Newton steps.

    It gives up where the stability falls below ``least_stable``.
    """
    cost = _cost(centers, frame)
    damping, norm = 0.0, np.inf
    for _ in range(max_steps):
        basis, gradient, hessian = newton_model(centers, frame)
        norm = float(np.linalg.norm(gradient))
        if norm < tolerance or not np.isfinite(norm):
            break
        size = max(float(np.trace(hessian)) / len(hessian), _TINY)
        accepted = False
        while damping < 1e6 * size and not accepted:
            try:
                # Levenberg's damping: Cholesky fails where the Hessian is not positive definite,
                # which is how a saddle is noticed; 1e-13 of the mean eigenvalue only keeps rounding
                # from doing so.
                shift = max(damping, 1e-13 * size) * np.eye(len(hessian))
                step = -cho_solve(cho_factor(hessian + shift), gradient)
            except LinAlgError:  # not convex here
                damping = max(4 * damping, 1e-4 * size)
                continue
            trial = np.linalg.qr(frame + basis @ step.reshape(basis.shape[1], -1))[0]
            value = _cost(centers, trial)
            # Below F's rounding error only the step's length says whether it can be trusted.
            rounding = 1e-13 * cost if np.linalg.norm(step) < 1e-2 else 0.0
            accepted = value <= cost + 0.05 * float(gradient @ step) + rounding
            damping = damping / 4 if accepted else max(4 * damping, 1e-4 * size)
        if not accepted:
            break
        # undamped again near the minimum, where Newton's steps then converge quadratically
        damping = damping if damping > 1e-7 * size else 0.0
        frame, cost = trial, value
        # a valley that leads to the removal of a center is left at once: its end is no answer
        if least_stable and evaluate(centers, frame[None])[3][0] < least_stable:
            break
    stability = evaluate(centers, frame[None])[3]
    return Points(frame[None], np.array([cost]), np.array([norm]), stability)


def _cost(centers: Array, frame: Array) -> float:
    left = centers - (centers @ frame) @ frame.T
    squared = np.einsum("ij,ij->i", left, left)
    if not squared.min() > 0:
        return np.inf
    unit = left / np.sqrt(squared)[:, None]
    return 0.5 * float(np.square(unit @ unit.T).sum())


def newton_model(centers: Array, frame: Array) -> tuple[Array, Array, Array]:
    """A basis Q (r, q) of the complement; gradient (q k,) and Hessian of F along V + Q Z.

    With u_i = Q' x_i / c_i and b_i = V' x_i / c_i, c_i the length left of center i, a step Z
    (q, k) changes C_ij / c_i c_j to first order by -<Z, h_ij + h_ji>, h_ij = u_j b_i', and to
    second by <b_i, Z'Z b_j> - <u_i, Z Z' u_j>. Sums over pairs of products of h are Kronecker
    products of (k, k) and (q, q) matrices; what the lengths add has rank 2 P.
    """
    r, k = frame.shape
    q = r - k
    # QR of [V, I]: its first k columns span V, the next r - k the orthogonal complement
    basis = np.linalg.qr(np.concatenate([frame, np.eye(r)], axis=1))[0][:, k:r]
    left = centers @ basis
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    u, b = left / lengths, (centers @ frame) / lengths
    cosines = u @ u.T
    squares = np.square(cosines)
    total = squares.sum(1)
    # W of `evaluate` in unit vectors: cosines, less what the lengths' change takes on the diagonal
    weight = cosines - np.diag(total)
    gradient = (-2 * u.T @ weight @ b).ravel()
    cross = b.T @ u
    hessian = 2 * np.einsum("pq,ab->paqb", u.T @ u, b.T @ b)  # sum of h_ij h_ij'
    hessian += 2 * np.einsum("aq,bp->paqb", cross, cross)  # sum of h_ij h_ji'
    # second-order terms of C_ij: <b_i, Z'Z b_j> fills the blocks p = q, <u_i, ZZ' u_j> those a = b
    index = np.arange(q)
    hessian[index, :, index, :] += 2 * (b.T @ weight @ b)
    index = np.arange(k)
    hessian[:, index, :, index] -= 2 * (u.T @ weight @ u)
    hessian = hessian.reshape(q * k, q * k)
    # Change of log C_ii, and of sum_j g_ij C_ij, with the step.
    log_length = -2 * (u[:, :, None] * b[:, None, :]).reshape(len(u), -1)
    pulled = (cosines @ u)[:, :, None] * b[:, None, :] + u[:, :, None] * (cosines @ b)[:, None, :]
    # rank 2 P: the lengths c_i move too, and with them each cosine that they divide
    factor = 0.5 * squares @ log_length + total[:, None] * log_length
    factor += 2 * pulled.reshape(len(u), -1)
    low_rank = log_length.T @ factor
    return basis, gradient, hessian + low_rank + low_rank.T
