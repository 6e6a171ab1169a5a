"""Distance to the boundary of an affine map the slow way: one point and one other class a time."""

from __future__ import annotations

import torch
from torch import Tensor


def radius(a: Tensor, b: Tensor, x: Tensor, label: int) -> float:
    """How far x must move to the nearest of the hyperplanes; negative if it is beyond one.

    ``a`` (k, d) and ``b`` (k,) are the map, and ``label`` the class of x.
    """
    distances = []
    for other in range(len(a)):
        if other == label:
            continue
        normal, offset = a[label] - a[other], b[label] - b[other]
        # the foot of the perpendicular: the shortest solution of one equation
        step = torch.linalg.pinv(normal[None])[:, 0] * -(normal @ x + offset)
        side = 1 if normal @ x + offset >= 0 else -1
        distances.append(side * float(step.norm()))
    return min(distances)


def accuracy(model, x: Tensor, y: Tensor, threshold: float = 0.0) -> float:  # type: ignore[no-untyped-def]
    """Right answers one example at a time."""
    right = 0
    for example, label in zip(x, y, strict=True):
        outputs = model(example[None]).reshape(-1)
        if len(outputs) == 1:
            right += bool(outputs[0] > threshold) == bool(label > 0)
        else:
            right += int(outputs.argmax()) == int(label)
    return right / len(x)
