"""How far an example is from being misclassified: in its linear region, and under noise.

On the linear region of x a piecewise-linear network is f(x') = A x' + b. Of this map the example
is classified as y in the half-spaces (A_y - A_j) x' + b_y - b_j > 0, so that its distance from the
decision boundary is

    r(x) = min_{j != y} (f_y(x) - f_j(x)) / ||A_y - A_j||.

GrokAlign (Walker et al. 2025, arXiv:2506.12284, Theorem 3): among rank-one maps without bias the
radius is largest where the Jacobian is aligned with x. It is then ||x||, which by Cauchy-Schwarz no
map without bias exceeds, whatever its rank (``grokscope reproduce grokalign/theorems``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, batch_size, chunks, leaf_at, with_leaf, wrt_key
from grokscope.measures.company import Company, outputs_at
from grokscope.measures.guard import undisturbed
from grokscope.measures.inputs import (
    Model,
    check_batch,
    check_chunk_size,
    check_not_batch_dependent,
    check_number,
    class_labels,
    generator_or_fresh,
)
from grokscope.measures.local_map import LocalMap, over_batch
from grokscope.measures.magnitudes import norms
from grokscope.measures.precision import full_precision
from grokscope.measures.view import wrt_of

Dims = slice | Sequence[int]


@checked_arguments
def robust_radius(
    model: Model,
    x: Batch,
    y: Tensor,
    *,
    threshold: float = 0.0,
    chunk_size: int | None = None,
) -> Float[Tensor, " n"]:
    """Distance of every example to the decision boundary of the affine map on its linear region.

    For an example that is classified correctly it is the Euclidean length of the smallest step to
    where the affine map, continued beyond the region, says something else. It is negative where
    the example is misclassified: no step shorter than the absolute value could put that right. The
    network's own boundary can be nearer or farther where it lies outside the region.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to change (see `View`).
        y: labels (n,): classes 0..k-1; with one output positive numbers for above the threshold
            and others for below, such as 1 and 0, or 1 and -1.
        threshold: where one output is divided: 0 for logits, 0.5 for a regression on 0 and 1.
        chunk_size: examples at a time; all of them if None. Memory grows with n k d.

    Returns:
        Signed distances (n,). Infinite where the map does not depend on x; 0 where it also says
        that two classes are equal.

    Raises:
        ValueError: as for `input_jacobian`, or if ``y`` does not fit.

    Example:
        >>> import torch, grokscope as gs
        >>> x, y = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([1, 0])
        >>> gs.robust_radius(lambda x: x, x, y)
        tensor([0.7071, 0.0000])
    """
    check_batch(x)
    check_chunk_size(chunk_size)
    n = batch_size(x)
    check_labels(y, n)
    check_number("threshold", threshold)
    labels = list(class_labels(y).split(chunk_size or n))

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        margins, normals = _half_spaces(local, labels.pop(0).to(part.device), threshold)
        lengths = norms(normals)
        flat = torch.where(margins == 0, 0, margins.sign() * torch.inf)
        return (torch.where(lengths > 0, margins / lengths, flat).amin(1),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def noise_accuracy(
    model: Model,
    x: Batch,
    y: Tensor,
    std: float | Sequence[float] | Tensor,
    dims: Dims | None = None,
    generator: torch.Generator | None = None,
    *,
    threshold: float = 0.0,
    chunk_size: int | None = None,
) -> Float[Tensor, " *s"]:
    """Share of examples that are classified correctly when Gaussian noise is added to the input.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to change (see `View`).
        y: labels (n,), as for `robust_radius`.
        std: standard deviation of the noise in every coordinate. Of several, all scale the same
            draw, so that they compare.
        dims: which features of a flattened input the noise hits: a slice such as ``slice(2, None)``
            or a list; all of them if None.
        generator: source of the noise. If None, a fresh one seeded by the operating system: the
            global random state is left alone, and two calls differ.
        threshold: where one output is divided.
        chunk_size: examples at a time; all of them if None. The noise does not depend on it.

    Returns:
        The accuracy, a scalar, or (s,) for s deviations.

    Raises:
        ValueError: as for `input_jacobian`, or if ``y``, ``std`` or ``dims`` does not fit.

    Example:
        >>> import torch, grokscope as gs
        >>> x, y = torch.randn(100, 2), torch.zeros(100, dtype=torch.long)
        >>> gs.noise_accuracy(lambda x: torch.ones(len(x), 3).cumsum(1).flip(1), x, y, [0.0, 5.0])
        tensor([1., 1.])
    """
    check_batch(x)
    noise = gaussian_noise(leaf_at(x, wrt_key(x, wrt_of(model))), dims, generator)
    if isinstance(std, Tensor):
        std = std.tolist()
    deviations = [float(std)] if isinstance(std, (int, float)) else [float(s) for s in std]
    shares = perturbed_accuracy(model, x, y, noise, deviations, threshold, chunk_size)
    found = torch.tensor(shares, dtype=noise.dtype, device=noise.device)
    return found[0] if isinstance(std, (int, float)) else found


def check_dims(dims: Dims | None) -> None:
    """Raise where no feature is named."""
    if dims is not None and not isinstance(dims, slice) and len(dims) == 0:
        raise ValueError("dims is empty: name at least one feature, or pass None for all")


def gaussian_noise(
    x: Float[Tensor, " n *d"], dims: Dims | None, generator: torch.Generator | None
) -> Float[Tensor, " n *d"]:
    """Independent standard normal numbers in the chosen features of ``x``, 0 in the others.

    In float32 for a batch of lower precision.
    """
    generator = generator_or_fresh(generator)
    dtype = torch.promote_types(x.dtype, torch.float32)
    noise = torch.randn(x.shape, generator=generator, dtype=dtype, device=generator.device)
    noise = noise.to(x.device)
    if dims is None:
        return noise
    check_dims(dims)
    hit = torch.zeros(x[0].numel(), dtype=torch.bool, device=x.device)
    try:
        hit[dims if isinstance(dims, slice) else list(dims)] = True
    except (IndexError, TypeError) as error:
        raise ValueError(
            f"dims must be a slice or a list of features from 0 to {len(hit) - 1}: got {dims!r}"
        ) from error
    if not bool(hit.any()):
        raise ValueError(f"dims={dims!r} names none of the {len(hit)} features; pass None for all")
    return noise * hit.view(x.shape[1:])


@torch.no_grad()
def perturbed_accuracy(
    model: Model,
    x: Batch,
    y: Tensor,
    noise: Float[Tensor, " n *d"],
    std: Sequence[float],
    threshold: float = 0.0,
    chunk_size: int | None = None,
) -> list[float]:
    """Share of examples classified correctly at ``x + s noise``, for every s of ``std``."""
    check_chunk_size(chunk_size)
    check_not_batch_dependent(model)
    n = batch_size(x)
    check_labels(y, n)
    check_number("threshold", threshold)
    if not std or not all(0 <= s < torch.inf for s in std):
        raise ValueError(f"std must be 0 or positive, and finite: got {list(std)}")
    key, labels = wrt_key(x, wrt_of(model)), class_labels(y).to(noise.device)
    plain = leaf_at(x, key)
    shares = []
    with undisturbed(model) as rewind, full_precision(noise):
        for s in std:
            # in the precision of the noise, rounded to that of the model at the end
            moved = with_leaf(x, key, (plain + s * noise).to(plain.dtype))
            company = Company(model, moved, chunk_size=chunk_size)
            parts = []
            for part in chunks(moved, chunk_size):
                rewind()
                parts.append(outputs_at(model, part))
            outputs = torch.cat(parts)
            company.check(outputs)
            rewind()
            shares.append(_num_right(outputs, labels, threshold) / n)
    return shares


def _num_right(outputs: Float[Tensor, "n k"], y: Tensor, threshold: float) -> int:
    if outputs.shape[1] == 1:
        return int(((outputs[:, 0] > threshold) == (y > 0)).sum())
    check_classes(y, outputs.shape[1])
    return int((outputs.argmax(1) == y).sum())


def _half_spaces(
    local: LocalMap, y: Tensor, threshold: float
) -> tuple[Float[Tensor, "n j"], Float[Tensor, "n j d"]]:
    """Margins and normals of the boundaries between an example's label and the others."""
    outputs, rows = local.outputs, local.jacobian()
    n, k = outputs.shape
    if k == 1:
        # one output: the one boundary is f = threshold, on the side of which the label says it is
        sign = torch.where(y > 0, 1, -1).to(outputs)[:, None]
        return sign * (outputs - threshold), sign[:, None] * rows
    check_classes(y, k)
    every = torch.arange(n, device=y.device)
    others = (
        torch.arange(k, device=y.device)
        .expand(n, k)[torch.arange(k, device=y.device) != y[:, None]]
        .view(n, k - 1)
    )
    # f_y - f_j and its gradient, for the k - 1 other classes: the half-spaces of Theorem 3
    margins = outputs[every, y, None] - outputs.gather(1, others)
    return margins, rows[every, y, None] - rows[every[:, None], others]


def check_labels(y: Tensor, n: int) -> None:
    """Raise unless ``y`` holds a label for each of ``n`` examples."""
    if y.is_complex():
        raise ValueError(f"y must hold real labels: got {y.dtype}")
    if y.is_floating_point() and not bool(torch.isfinite(y).all()):
        raise ValueError("y holds NaN or infinity")
    if tuple(y.shape) != (n,):
        raise ValueError(
            f"y must hold a label for each of the {n} examples, shape ({n},): got {tuple(y.shape)}"
        )


def check_classes(y: Tensor, k: int) -> None:
    """Raise unless ``y`` holds integer classes of a model with ``k`` outputs."""
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= k:
        raise ValueError(
            f"y must hold integer classes from 0 to {k - 1} for a model with {k} outputs: got "
            f"{y.dtype} from {float(y.min()):g} to {float(y.max()):g}"
        )
