"""Slow twins: one problem at a time, by SciPy's active-set solver, as the definitions read."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor


def project_on_cone(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coefficients a >= 0 of the point of the cone of columns nearest to target."""
    return nnls(columns, target, maxiter=100 * columns.shape[1])[0]


def anchor_point(columns: np.ndarray, t: np.ndarray, margin: float) -> np.ndarray:
    """The anchor of one Gaussian vector; columns (D + 1, m) end in a row of ones."""
    if (columns.T @ t).max() + margin <= 0:
        return columns[:, (columns.T @ t).argmax()]
    shifted = t.copy()
    shifted[-1] += margin
    a = project_on_cone(columns, shifted)
    return columns @ a / a.sum()


def manifold_geometry(
    manifolds: list[Tensor], t: list[Tensor], subspace: Tensor, margin: float = 0.0
) -> dict[str, Tensor]:
    """Capacity, radius and dimension of each manifold, given its Gaussian vectors."""
    clouds = [np.asarray(points, dtype=float).T for points in manifolds]
    origin = np.concatenate(clouds, axis=1).mean(1, keepdims=True)
    v = np.asarray(subspace, dtype=float)
    rows = []
    for points, vectors in zip(clouds, t, strict=True):
        points = points - origin
        points = points - v @ (v.T @ points)
        center = points.mean(1, keepdims=True)
        points = (points - center) / np.linalg.norm(center)
        if points.shape[0] > points.shape[1]:
            points = np.linalg.qr(points)[1]
        columns = np.vstack([points, np.ones(points.shape[1])])
        rows.append(_geometry(columns, np.asarray(vectors, dtype=float), margin))
    capacity, radius, dimension = torch.tensor(rows).T
    return {"capacity": capacity, "radius": radius, "dimension": dimension}


def _geometry(columns: np.ndarray, vectors: np.ndarray, margin: float) -> tuple[float, ...]:
    anchors = np.stack([anchor_point(columns, t, margin) for t in vectors.T], axis=1)
    inverse_capacity, cosines = [], []
    for s, t in zip(anchors.T, vectors.T, strict=True):
        inverse_capacity.append(max(t @ s + margin, 0) ** 2 / (s @ s))
        length = np.linalg.norm(t[:-1]) * np.linalg.norm(s[:-1])
        cosines.append(t[:-1] @ s[:-1] / length if length else 0.0)
    center = anchors.mean(1, keepdims=True)
    radius = np.sqrt(np.mean(np.sum((anchors - center)[:-1] ** 2, axis=0)))
    return 1 / np.mean(inverse_capacity), radius, (len(columns) - 1) * np.mean(cosines) ** 2


def glue_geometry(manifolds: list[Tensor], t: Tensor, labels: Tensor) -> dict[str, float]:
    """Joint capacity, dimension, radius, utility and alignments, one sample after the other."""
    clouds = [np.asarray(points, dtype=float) for points in manifolds]
    count = len(clouds)
    samples, projections = [], []
    for vector, y in zip(np.asarray(t), np.asarray(labels, dtype=float), strict=True):
        columns = np.concatenate([sign * points for sign, points in zip(y, clouds, strict=True)]).T
        a = project_on_cone(columns, vector)
        projection = columns @ a
        projections.append(projection @ projection)
        rows, start = [], 0
        for sign, points in zip(y, clouds, strict=True):
            mine = a[start : start + len(points)]
            start += len(points)
            if mine.sum() > 0:
                rows.append(mine @ points / mine.sum())
            else:
                rows.append(points[(sign * points @ (vector - projection)).argmax()])
        samples.append(np.stack(rows))
    s0 = np.mean(samples, axis=0)
    b, c, axis, cross = [], [], [], []
    for vector, s in zip(np.asarray(t), samples, strict=True):
        s1 = s - s0
        field = s1 @ vector
        b.append(field @ np.linalg.pinv(s1 @ s1.T, hermitian=True) @ field)
        c.append(field @ np.linalg.pinv(s0 @ s0.T + s1 @ s1.T, hermitian=True) @ field)
        axis.append(_mean_cosine(s1, s1))
        cross.append(_mean_cosine(s0, s1))
    return {
        "capacity": count / np.mean(projections),
        "dimension": np.mean(b) / count,
        "radius": np.sqrt(np.mean(c) / np.mean(np.subtract(b, c))),
        "utility": np.mean(c) / np.mean(projections),
        "center_alignment": _mean_cosine(s0, s0),
        "axis_alignment": np.mean(axis),
        "center_axis_alignment": np.mean(cross),
    }


def _mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    pairs = [
        abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if i != j
    ]
    return float(np.mean(pairs))


def center_cost(coordinates: Tensor, frame: Tensor) -> Tensor:
    """Half the sum of squared correlations left after removing an orthonormal frame (r, k)."""
    left = coordinates - coordinates @ frame @ frame.T
    total = torch.zeros((), dtype=coordinates.dtype)
    for a in left:
        for b in left:
            total = total + (a @ b) ** 2 / ((a @ a) * (b @ b))
    return total / 2


def center_stability(coordinates: Tensor, frame: Tensor) -> Tensor:
    """Least share of a center's squared length that is left after removing a frame (r, k)."""
    left = coordinates - coordinates @ frame @ frame.T
    return torch.stack([(a @ a) / (b @ b) for a, b in zip(left, coordinates, strict=True)]).min()


def conjugate_gradients(coordinates: Tensor, frame: Tensor, num_steps: int) -> Tensor:
    """The authors' optimizer of ``center_cost``, on orthonormal frames, from one start."""

    def slope(v: Tensor) -> Tensor:
        v = v.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(center_cost(coordinates, v), v)
        return tangent(v.detach(), gradient)

    def tangent(v: Tensor, z: Tensor) -> Tensor:
        return z - v @ (v.T @ z + z.T @ v) / 2

    def moved(v: Tensor, z: Tensor) -> Tensor:
        q, r = torch.linalg.qr(v + z)
        return q * r.diagonal().sign()

    gradient = slope(frame)
    direction, length = -gradient, 1 / gradient.norm()
    for _ in range(num_steps):
        if (gradient * direction).sum() >= 0:
            direction = -gradient
        cost, promise = center_cost(coordinates, frame), (gradient * direction).sum() / 2
        halvings = 0
        while center_cost(coordinates, moved(frame, length * direction)) > cost + length * promise:
            length, halvings = length / 2, halvings + 1
        frame = moved(frame, length * direction)
        turn = slope(frame) - tangent(frame, gradient)
        gradient, direction = slope(frame), tangent(frame, direction)
        factor = (gradient * turn).sum() / (direction * turn).sum()
        direction = factor.clamp_min(0) * direction - gradient
        length = length if halvings == 1 else 2 * length
    return frame
