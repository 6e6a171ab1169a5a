"""What the training methods do, the slow, obvious way: from the whole list of past gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ema_filtered(past: list[Tensor], alpha: float, strength: float) -> Tensor:
    """The last gradient and ``strength`` times the weighted sum of all, in closed form."""
    total = torch.zeros_like(past[0])
    for age, gradient in enumerate(reversed(past)):
        first = age == len(past) - 1
        total += (alpha**age if first else (1 - alpha) * alpha**age) * gradient
    return past[-1] + strength * total


def ma_filtered(past: list[Tensor], window: int, strength: float) -> Tensor:
    """The last gradient and ``strength`` times the mean of the last ``window``, once there are."""
    if len(past) < window:
        return past[-1]
    return past[-1] + strength * sum(past[-window:]) / window


def orthogonal(weight: Tensor, gradient: Tensor) -> Tensor:
    """The projection written as a matrix, scaled to the gradient's length."""
    w, g = weight.flatten(), gradient.flatten()
    unit = w / w.norm()
    remains = (torch.eye(len(w), dtype=w.dtype) - torch.outer(unit, unit)) @ g
    return (remains * g.norm() / remains.norm()).reshape(gradient.shape)


def stablemax_loss(logits: Tensor, labels: list[int]) -> float:
    """-log of the share of s(z), number by number."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        s = [z + 1 if z >= 0 else 1 / (1 - z) for z in row]
        total -= math.log(s[label] / sum(s))
    return total / len(labels)
