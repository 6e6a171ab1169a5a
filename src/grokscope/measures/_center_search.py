"""Minimizing the centers' squared correlations over k-dimensional subspaces, all starts at once.

The work is a few thousand steps of some forty operations on matrices of a few hundred numbers, so
it is the cost of a call that counts: NumPy on the host takes a quarter of PyTorch's time, and an
accelerator would take longer than either. ``centers.py`` says what is minimized and why.

Method: limited-memory BFGS on the frames Z of the subspaces, which F depends on by their span
alone, so that gradients are horizontal and no transport is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_HISTORY = 12  # steps that the quasi-Newton direction remembers
_COLLAPSED = 1e-2  # a start that shrinks some center to this share can win only if all starts do
_TINY = 1e-300


def minimize(coordinates: Array, starts: Array, tolerance: float, max_steps: int) -> Array:
    """Local minima of F reached from each start, as orthonormal frames (b, r, k).

    Args:
        coordinates: (P, r) centers in an orthonormal basis of their span.
        starts: (b, r, k) frames, any basis of the subspaces to start from.
        tolerance: a start is done when its gradient's norm is below this, when no step lowers F
            any more, or when it has all but removed a center.
        max_steps: a start still going after so many steps stays where it is.
    """
    gram = coordinates @ coordinates.T
    result = np.empty_like(starts)
    live = np.arange(len(starts))
    frame = starts
    cost, slope, space, kept = _evaluate(coordinates, gram, frame)
    steps = turns = np.zeros((len(starts), 0, starts[0].size))
    blocked = np.zeros(len(starts), dtype=bool)
    for _ in range(max_steps):
        done = blocked | (_norm(slope.reshape(len(live), -1)) < tolerance)
        if done.any():
            result[live[done]] = space[done]
            going = ~done
            live, frame, cost, slope = live[going], frame[going], cost[going], slope[going]
            space, steps, turns = space[going], steps[going], turns[going]
        if not len(live):
            return result
        gradient = slope.reshape(len(live), -1)
        direction = _direction(gradient, steps, turns)
        step, cost, slope, space, kept, blocked = _step(
            coordinates, gram, frame, cost, gradient, direction
        )
        frame = frame + step.reshape(frame.shape)
        steps, turns = _remember(steps, turns, step, slope.reshape(gradient.shape) - gradient)
        blocked = blocked | (kept < _COLLAPSED**2)
    result[live] = space
    return result


def stability(coordinates: Array, space: Array) -> Array:
    """Squared share of its length that the most shrunken center keeps, for each frame (b,)."""
    before = np.square(coordinates).sum(1)
    return (1 - np.square(coordinates @ space).sum(2) / before).min(1)


def _norm(rows: Array) -> Array:
    return np.sqrt(np.einsum("bn,bn->b", rows, rows))


def _evaluate(coordinates: Array, gram: Array, frame: Array) -> tuple[Array, Array, Array, Array]:
    """F (b,), its gradient in the frame, an orthonormal frame V, and the stability (b,).

    With C = X X' - B B', B = X V and W_ij = C_ij / (C_ii C_jj): dF = -2 <M B, dB>, where M is W
    less sum_j C_ij W_ij / C_ii on its diagonal.
    """
    inverse = np.linalg.inv(np.linalg.cholesky(frame.swapaxes(1, 2) @ frame))
    space = frame @ inverse.swapaxes(1, 2)
    shadow = coordinates @ space
    left = gram - shadow @ shadow.swapaxes(1, 2)
    squared = np.einsum("bii->bi", left)
    kept = (squared / gram.diagonal()).min(1)
    reciprocal = 1 / np.maximum(squared, _TINY)
    weight = left * reciprocal[:, :, None]
    weight *= reciprocal[:, None, :]
    squares = np.einsum("bij,bij->bi", left, weight)
    cost = np.where(kept > 0, 0.5 * squares.sum(1), np.inf)
    np.einsum("bii->bi", weight)[...] -= squares * reciprocal
    slope = -2 * (coordinates.T @ (weight @ shadow))
    slope -= space @ (space.swapaxes(1, 2) @ slope)
    return cost, slope @ inverse, space, kept


def _step(
    coordinates: Array, gram: Array, frame: Array, cost: Array, gradient: Array, direction: Array
) -> tuple[Array, Array, Array, Array, Array, NDArray[np.bool_]]:
    """A step (b, n) along each direction that lowers F, and F there; last, where none was found."""
    descent = np.einsum("bn,bn->b", gradient, direction)
    uphill = ~(descent < 0)
    if uphill.any():
        direction = np.where(uphill[:, None], -gradient, direction)
        descent = np.einsum("bn,bn->b", gradient, direction)
    length = np.ones_like(cost)
    for _ in range(25):
        step = length[:, None] * direction
        values = _evaluate(coordinates, gram, frame + step.reshape(frame.shape))
        # Near the minimum F is flat to rounding, and the quasi-Newton step is to be trusted.
        accepted = values[0] <= cost + 1e-4 * length * descent + 1e-13 * cost
        if accepted.all():
            return step, *values, ~accepted
        length = np.where(accepted, length, 0.3 * length)
    step = np.where(accepted[:, None], step, 0.0)
    return step, *_evaluate(coordinates, gram, frame + step.reshape(frame.shape)), ~accepted


def _remember(steps: Array, turns: Array, step: Array, turn: Array) -> tuple[Array, Array]:
    """The history with one more step and change of gradient; zeros where curvature was lost."""
    curved = np.einsum("bn,bn->b", step, turn) > 1e-10 * _norm(step) * _norm(turn)
    if not curved.all():
        step, turn = step * curved[:, None], turn * curved[:, None]
    first = 1 if steps.shape[1] == _HISTORY else 0
    return (
        np.concatenate([steps[:, first:], step[:, None]], axis=1),
        np.concatenate([turns[:, first:], turn[:, None]], axis=1),
    )


def _direction(gradient: Array, steps: Array, turns: Array) -> Array:
    """The quasi-Newton direction in compact form (Byrd, Nocedal and Schnabel 1994, theorem 2.2).

    ``gradient`` (b, n); history (b, h, n), newest last.
    """
    if steps.shape[1] == 0:
        return -0.1 * gradient / _norm(gradient)[:, None]
    products = steps @ turns.swapaxes(1, 2)
    curvature = np.einsum("bii->bi", products)
    upper = np.triu(products)
    np.einsum("bii->bi", upper)[...] += curvature == 0
    newest = np.einsum("bn,bn->b", turns[:, -1], turns[:, -1])
    size = np.where(newest > 0, curvature[:, -1] / np.maximum(newest, _TINY), 1.0)[:, None, None]
    column = gradient[:, :, None]
    first = np.linalg.solve(upper, steps @ column)
    middle = (
        size * (turns @ (turns.swapaxes(1, 2) @ first - column)) + curvature[:, :, None] * first
    )
    second = np.linalg.solve(upper.swapaxes(1, 2), middle)
    inner = steps.swapaxes(1, 2) @ second - size * (turns.swapaxes(1, 2) @ first)
    return -(size * column + inner)[:, :, 0]
