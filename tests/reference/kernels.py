"""Kernel distance and alignment by their definitions, on flattened kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """<K1, K2> / (|K1| |K2|)."""
    a, b = first.flatten(), second.flatten()
    return (a @ b) / (a.norm() * b.norm())


def label_kernel(targets: Tensor, kernel: Tensor) -> Tensor:
    """(n, n) or (n, n, k, k), as ``kernel``, of targets (n, k)."""
    if kernel.ndim == 2:
        return targets @ targets.T
    return torch.einsum("ai,bj->abij", targets, targets)


def centered(kernel: Tensor) -> Tensor:
    """H K H over the two axes of examples, H = I - 1 1^T / n."""
    n = len(kernel)
    h = torch.eye(n, dtype=kernel.dtype) - torch.full((n, n), 1 / n, dtype=kernel.dtype)
    return torch.einsum("ab,bc...,cd->ad...", h, kernel, h)
