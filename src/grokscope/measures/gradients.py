"""Gradients of an existing graph, zeros where a tensor has no part in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients_or_zeros(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Tensor | Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
) -> list[Tensor]:
    """The products of ``cotangents`` with the derivatives of ``outputs`` by each of ``inputs``.

    Args:
        outputs: a tensor, or several, with their graph.
        inputs: what to differentiate by; one that the outputs do not depend on gets zeros.
        cotangents: in the shape of ``outputs``; None for a scalar output.
        retain_graph: keep the graph for a further pass.

    Returns:
        A tensor for each of ``inputs``, in its shape, none of which requires gradients.

    Cost: one backward pass.

    Example:
        >>> x, unused = torch.tensor([3.0], requires_grad=True), torch.ones(2, requires_grad=True)
        >>> gradients_or_zeros((x**2).sum(), [x, unused])
        [tensor([6.]), tensor([0., 0.])]
    """
    # not materialize_grads=True: on PyTorch 2.6 its zeros require gradients, and whatever they are
    # written to does from then on
    found = torch.autograd.grad(
        outputs, inputs, cotangents, retain_graph=retain_graph, allow_unused=True
    )
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    ]
