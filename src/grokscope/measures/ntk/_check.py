"""A kernel against the model's own derivatives: one product with a random vector."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokscope.measures.inputs import check_outputs

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def tolerance(dtype: torch.dtype) -> float:
    """The relative error up to which a kernel in ``dtype`` passes."""
    return _TOLERANCE.get(dtype, 5e-2)


def checked_examples(count: int, device: torch.device) -> Tensor:
    """The examples that the check looks at: an eighth of them, but at least 16, spread evenly."""
    number = min(count, max(16, count // 8))
    return torch.linspace(0, count - 1, number, device=device).round().long()


def relative_error(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    kernel: Tensor,
    x1: Tensor,
    x2: Tensor,
    directions: Tensor,
) -> float:
    """How far ``K v`` is from ``J_1 (J_2^T v)`` for a random v, relative to the latter.

    The right-hand side is a vector-Jacobian and then a Jacobian-vector product. Where the two
    disagree, ``w^T K v`` is compared with ``<J_1^T w, J_2^T v>`` as well: a model may have no
    second derivative to form the Jacobian-vector product with, and where the gradients of summed
    outputs cancel, rounding errors must be measured against what cancelled.

    Args:
        model: maps (n, ...) to (n, k) or (n,).
        parameters: what the kernel is over.
        kernel: (r, n1, r, n2).
        x1: (n1, ...).
        x2: (n2, ...).
        directions: (r, k).
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    rows, n1, _, n2 = kernel.shape

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(directions)

    v = random(rows, n2)
    product = (kernel.reshape(rows * n1, rows * n2) @ v.flatten()).view(rows, n1)
    pulled = _pulled_back(model, parameters, x2, v.T @ directions)
    try:
        expected = directions @ _pushed_forward(model, parameters, x1, pulled).T
        error = float((product - expected).norm()) / max(float(expected.norm()), 1e-300)
        if error <= tolerance(kernel.dtype):
            return error
    except (NotImplementedError, RuntimeError):
        pass
    w = random(rows, n1)
    other = _pulled_back(model, parameters, x1, w.T @ directions)
    inner = sum(float((other[name] * pulled[name]).sum()) for name in parameters)
    sizes = (
        _norm(_pulled_back(model, parameters, x, random(len(x), directions.shape[1])))
        for x in (x1, x2)
    )
    return abs(float((w * product).sum()) - inner) / max(math.prod(sizes), 1e-300)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors.values()) ** 0.5


def _pulled_back(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], x: Tensor, cotangent: Tensor
) -> dict[str, Tensor]:
    """``J^T v`` for a cotangent (n, k), by parameter."""
    outputs = check_outputs(model(x), len(x))
    grads = torch.autograd.grad(
        outputs, list(parameters.values()), cotangent, materialize_grads=True
    )
    dense = [grad.to_dense() if grad.is_sparse else grad for grad in grads]
    return dict(zip(parameters, dense, strict=True))


def _pushed_forward(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    x: Tensor,
    tangents: Mapping[str, Tensor],
) -> Tensor:
    """``J u`` (n, k) for a tangent u, by parameter: the derivative of ``<J^T w, u>`` in w."""
    with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel with a second derivative
        outputs = check_outputs(model(x), len(x))
        w = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, list(parameters.values()), w, create_graph=True, allow_unused=True
        )
    pairs = [
        (grad, tangent)
        for grad, tangent in zip(pulled, tangents.values(), strict=True)
        if grad is not None and grad.requires_grad
    ]
    if not pairs:
        return torch.zeros_like(outputs)
    grads, values = zip(*pairs, strict=True)
    return torch.autograd.grad(grads, w, values, materialize_grads=True)[0]
