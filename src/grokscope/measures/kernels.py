"""How far kernels are from one another, how fast they move, and how well they fit the labels.

All are cosines of kernels as vectors, and so do not see a kernel's scale:
``A(K1, K2) = <K1, K2> / (|K1| |K2|)`` with the Frobenius inner product. Cost: one pass over each
kernel, O(n^2 k^2), for a distance; T^2 / 2 such passes as one matrix product for T kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.magnitudes import power_of_two, wide
from grokscope.measures.precision import without_autocast

# numbers converted to float64 at once, so that no second copy of a kernel is made
_BLOCK = 2**22


@checked_arguments
@without_autocast
def kernel_distance(
    K1: Shaped[Tensor, "..."],
    K2: Shaped[Tensor, "..."],
) -> Float[Tensor, ""]:
    """One minus the cosine of two kernels (Fort et al. 2020; Zheng et al. 2024, Eq. 1).

    Args:
        K1: a kernel of any shape, (n1, n2) or (n1, n2, k, k).
        K2: a kernel of the same shape.

    Returns:
        A scalar in [0, 2], 0 for proportional kernels, [0, 1] for positive semidefinite ones;
        computed in float64 as half the squared distance of the normalized kernels, which keeps
        its relative accuracy when they are close.

    Raises:
        ValueError: if the shapes differ, or a kernel is zero or not finite.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.kernel_distance(torch.eye(2), torch.ones(2, 2)).item()
        0.292893...
    """
    if K1.shape != K2.shape:
        raise ValueError(f"K1 and K2 must have one shape: got {_sizes(K1)} and {_sizes(K2)}")
    check_kernel(K1, "K1")
    check_kernel(K2, "K2")
    norm1, norm2 = _norm(K1, "K1"), _norm(K2, "K2")
    total = torch.zeros((), dtype=torch.float64, device=K1.device)
    for a, b in zip(_pieces(K1), _pieces(K2), strict=True):
        total += (a.double() / norm1 - b.double() / norm2).square().sum()
    return (total / 2).to(_result_type(K1, K2))


@checked_arguments
@without_autocast
def kernel_distance_matrix(
    kernels: Sequence[Shaped[Tensor, "..."]],
) -> Float[Tensor, "t t"]:
    """The ``kernel_distance`` between all pairs of kernels (Zheng et al. 2024, Eq. 2).

    Args:
        kernels: T kernels of one shape, as of T checkpoints.

    Returns:
        (T, T), symmetric with a zero diagonal.

    Raises:
        ValueError: for no kernels, shapes that differ, or a kernel that is zero or not finite.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.kernel_distance_matrix([torch.eye(2), 3 * torch.eye(2)])
        tensor([[0., 0.],
                [0., 0.]])
    """
    kernels = list(kernels)
    if not kernels:
        raise ValueError("kernels is empty; pass at least one kernel")
    norms = check_kernels(kernels)
    gram = torch.zeros(len(kernels), len(kernels), dtype=torch.float64, device=kernels[0].device)
    block = max(1, _BLOCK // len(kernels))
    for pieces in zip(*(_pieces(kernel, block) for kernel in kernels), strict=True):
        rows = torch.stack(
            [piece.double().flatten() / norm for piece, norm in zip(pieces, norms, strict=True)]
        )
        gram += rows @ rows.T
    distances = (1 - gram).clamp_(min=0)
    return distances.fill_diagonal_(0).to(_result_type(*kernels))


@checked_arguments
@without_autocast
def ntk_velocity(
    kernels: Sequence[Shaped[Tensor, "..."]], steps: Sequence[float] | None = None
) -> Float[Tensor, " intervals"]:
    """How fast a kernel turns: the distance of successive checkpoints per step.

    ``v_t = (1 - A(K_t, K_{t+1})) / (s_{t+1} - s_t)``, the kernel velocity of Fort et al. (2020).

    Args:
        kernels: T kernels of one shape in the order of training, T at least 2.
        steps: the T training steps at which they were taken, increasing; None for one step
            between each.

    Returns:
        (T - 1,) distances per step.

    Raises:
        ValueError: for fewer than two kernels, steps that do not increase or are not one for each
            kernel, or what ``kernel_distance`` raises.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.ntk_velocity([torch.eye(2), torch.ones(2, 2)], steps=[0, 10])
        tensor([0.0293])
    """
    if len(kernels) < 2:
        raise ValueError(f"kernels must hold at least two: got {len(kernels)}")
    steps = list(range(len(kernels))) if steps is None else list(steps)
    if len(steps) != len(kernels):
        raise ValueError(f"steps must be one for each of {len(kernels)} kernels: got {len(steps)}")
    lengths = [later - earlier for earlier, later in pairwise(steps)]
    if not all(length > 0 for length in lengths):
        raise ValueError(f"steps must increase: got {steps}")
    check_kernels(kernels)
    pairs = zip(kernels[:-1], kernels[1:], lengths, strict=True)
    return torch.stack([kernel_distance(a, b) / length for a, b, length in pairs])


@checked_arguments
@without_autocast
def kernel_alignment(
    K: Shaped[Tensor, "..."],
    y: Shaped[Tensor, "..."],
    centered: bool = False,
) -> Float[Tensor, ""]:
    """The cosine of a kernel with the kernel of the labels (Cristianini et al. 2001).

    With targets Y (n, k), the label kernel is ``Y Y^T`` for a kernel (n, n), and
    ``Y_ai Y_bj`` for a kernel (n, n, k, k) over outputs (Baratin et al. 2021). Integer labels
    are taken as one-hot targets, so that examples of one class are alike and others unrelated.

    Args:
        K: (n, n) or (n, n, k, k).
        y: (n,) class labels, integer; or targets, floating point, (n,) such as -1 and 1 or
            (n, k).
        centered: subtract from both kernels their means over examples first (Cortes et al. 2012),
            which does away with what all examples share.

    Returns:
        A scalar in [-1, 1]; in [0, 1] for a positive semidefinite kernel.

    Raises:
        ValueError: for shapes that do not fit, or a kernel, centered where asked, that is zero or
            not finite.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.kernel_alignment(torch.eye(4), torch.tensor([0, 0, 1, 1])).item()
        0.7071...
    """
    if K.ndim not in (2, 4) or K.shape[0] != K.shape[1] or K.shape[2:3] != K.shape[3:]:
        raise ValueError(f"K must be (n, n) or (n, n, k, k): got {_sizes(K)}")
    check_kernel(K, "K")
    K = wide(K.detach())
    targets = _targets(y, K)
    if centered:
        targets = targets - targets.mean(0)
        K = K - K.mean(0, keepdim=True)
        K = K - K.mean(1, keepdim=True)
    norm = _norm(K, "K")
    if K.ndim == 2:
        inner = ((K @ targets.to(K)) * targets.to(K)).sum().double()
        label_norm = (targets.T @ targets).norm()
    else:
        flat = targets.to(K)
        inner = (torch.einsum("abij,bj->ai", K, flat) * flat).sum().double()
        label_norm = targets.square().sum()
    if not label_norm > 0:
        raise ValueError("y is the same for all examples; the centered label kernel is zero")
    return (inner / (norm * label_norm)).to(K.dtype)


def check_kernels(kernels: Sequence[Tensor]) -> list[float]:
    """The norms of kernels of one shape; raise, naming the kernel, where one is none."""
    for i, kernel in enumerate(kernels):
        if kernel.shape != kernels[0].shape:
            raise ValueError(
                f"kernels must have one shape: kernels[0] has {_sizes(kernels[0])}, "
                f"kernels[{i}] has {_sizes(kernel)}"
            )
    for i, kernel in enumerate(kernels):
        check_kernel(kernel, f"kernels[{i}]")
    return [_norm(kernel, f"kernels[{i}]") for i, kernel in enumerate(kernels)]


def check_kernel(kernel: Tensor, name: str) -> None:
    """Raise unless a kernel holds real numbers."""
    if not isinstance(kernel, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor: got {type(kernel).__name__}")
    if kernel.is_complex() or kernel.numel() == 0 or kernel.ndim < 2:
        raise ValueError(
            f"{name} must be a kernel of real numbers, (n1, n2) or (n1, n2, k, k): got "
            f"{kernel.dtype} of shape {_sizes(kernel)}"
        )


def _result_type(*kernels: Tensor) -> torch.dtype:
    """Of the kernels' types the widest, float32 at least: integer kernels have real distances."""
    found = torch.float32
    for kernel in kernels:
        found = torch.promote_types(found, kernel.dtype)
    return found


def _targets(y: Tensor, kernel: Tensor) -> Tensor:
    """Targets (n, k) in float64."""
    n, outputs = kernel.shape[0], kernel.shape[2] if kernel.ndim == 4 else None
    if y.ndim == 0 or len(y) != n:
        raise ValueError(f"y must have one entry for each of {n} examples: got {_sizes(y)}")
    if y.is_complex():
        raise ValueError(f"y must hold real labels or targets: got {y.dtype}; pick its real part")
    if y.is_floating_point():
        if not bool(torch.isfinite(y).all()):
            raise ValueError("y holds NaN or infinity")
        targets = y.double().to(kernel.device)
        targets = targets.unsqueeze(1) if y.ndim == 1 else targets
        if targets.ndim != 2 or outputs not in (None, targets.shape[1]):
            raise ValueError(f"y must be (n,) or (n, k) to fit K {_sizes(kernel)}: got {_sizes(y)}")
        return targets
    if y.ndim != 1 or bool((y < 0).any()):
        raise ValueError(f"integer y must be class labels (n,) from 0 on: got shape {_sizes(y)}")
    classes = int(y.max()) + 1
    if outputs is not None and classes > outputs:
        raise ValueError(
            f"y holds class {classes - 1}, but K {_sizes(kernel)} has {outputs} outputs"
        )
    one_hot = torch.nn.functional.one_hot(y.long(), outputs or classes)
    return one_hot.double().to(kernel.device)


def _norm(kernel: Tensor, name: str) -> float:
    """The Frobenius norm in float64; raise unless it is positive and finite."""
    largest = torch.stack([piece.double().abs().amax() for piece in _pieces(kernel)]).amax()
    if not bool(torch.isfinite(largest)) or largest == 0:
        state = "zero" if largest == 0 else "not finite"
        raise ValueError(f"{name} is {state}; its direction is not defined")
    size = float(power_of_two(largest))  # squares stay in the range of their type
    total = sum(float((piece.double() / size).square().sum()) for piece in _pieces(kernel))
    return math.sqrt(total) * size


def _pieces(kernel: Tensor, block: int = _BLOCK) -> list[Tensor]:
    """``kernel`` in pieces of at most ``block`` numbers, or of one row."""
    kernel = kernel.detach()
    row = max(1, kernel[0].numel())
    return list(kernel.split(max(1, block // row)))


def _sizes(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
