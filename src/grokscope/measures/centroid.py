"""Centroids: one vector of the input's shape that sums up the network's affine map at an example.

    mu_x = A_x^T 1 = sum over outputs of the rows of the input Jacobian A_x

The linear regions of a piecewise-linear network form a power diagram in input space, and mu_x is
the centroid of the cell of x (GrokAlign, arXiv:2506.12284, Theorem 4; Balestriero et al. 2019).
Where the Jacobian is aligned, A_x = c x^T, the centroid is too, mu_x = (1^T c) x (Proposition 6),
so the cosine of mu_x with x follows the stages of training at the price of one vector-Jacobian
product of the summed outputs, without the k rows. The converse does not hold.

A power diagram has a weight at each centroid besides, the squared radius of a sphere:

    rad_x = ||mu_x||^2 + 2 1^T b_x,    f = A_x x + b_x on x's region.

A point belongs to the cell whose power distance ||x - mu||^2 - rad is least.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch
from grokscope.measures.local_map import LocalMap, over_batch
from grokscope.measures.magnitudes import cosines, norms
from grokscope.measures.view import Model


@checked_arguments
def centroids(model: Model, x: Batch, *, chunk_size: int | None = None) -> Float[Tensor, " n *d"]:
    """The centroid A_x^T 1 of every example, in the shape of the input.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Centroids (n, *d).

    Raises:
        ValueError: if ``x`` has no batch axis, is empty or not finite; if the model mixes the
            examples of a batch or draws at random (BatchNorm, dropout in training mode), or its
            outputs have another shape or no gradient.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.centroids(lambda x: x * torch.tensor([1.0, 2.0]), torch.ones(1, 2))
        tensor([[1., 2.]])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        return (_flat_centroids(local).view_as(part),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def centroid_alignment(
    model: Model, x: Batch, *, chunk_size: int | None = None
) -> Float[Tensor, " n"]:
    """The cosine of every centroid with its example.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Cosines (n,) in [-1, 1]; 0 where the centroid or x is zero, a vector without a direction.
        NaN, with one warning, where the centroid is rounding noise because the outputs sum to a
        constant, as behind a softmax: take the logits or a difference of outputs there. In half
        precision some examples of a saturated softmax go unnoticed.

    Raises:
        ValueError: as for `centroids`.

    Example:
        >>> import torch, grokscope as gs
        >>> first = lambda x: x * torch.tensor([1.0, 0.0])
        >>> gs.centroid_alignment(first, torch.tensor([[3.0, 4.0]]))
        tensor([0.6000])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor, ...]:
        centroid, x = _flat_centroids(local), part.flatten(1)
        return cosines(centroid, x), noise_of(local, centroid), *bounds_of_sum(local)

    found, noise, *bounds = over_batch(model, x, chunk_size, measure)
    noise &= about_constant(*bounds)  # of the whole batch, so that chunks do not matter
    warn_of_noise(noise)
    return torch.where(noise, torch.nan, found)


@checked_arguments
def centroid_inner_product(
    model: Model, x: Batch, *, chunk_size: int | None = None
) -> Float[Tensor, " n"]:
    """The inner product <x, mu_x> of every example with its centroid.

    It equals the sum over outputs of A_x x; for a piecewise-linear network without biases that is
    the sum of the outputs, 1^T f(x).

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Inner products (n,).

    Raises:
        ValueError: as for `centroids`.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.centroid_inner_product(lambda x: 2 * x, torch.tensor([[3.0, 4.0]]))
        tensor([14.])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        return ((_flat_centroids(local) * part.flatten(1)).sum(1),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def radii(model: Model, x: Batch, *, chunk_size: int | None = None) -> Float[Tensor, " n"]:
    """The radius ||mu_x||^2 + 2 1^T b_x of every example's region, for its centroid mu_x.

    With f = A_x x + b_x on the region, the summed outputs of a layer of ReLUs (or of any units that
    are convex) are the largest of the maps mu^T x + 1^T b over all its regions. Completing the
    square, ||x||^2 - 2 (mu^T x + 1^T b) = ||x - mu||^2 - rad: so x is in the region whose power
    distance ||x - mu||^2 - rad is least (Balestriero et al. 2019; GrokAlign, section 3). What the
    papers call the radius is the square of a sphere's radius. It is negative where the sphere is
    imaginary.

    For a deep network this is the radius of its last layer's cell, which is one of a power diagram
    within the region of the layers before (`layer_radii`).

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Radii (n,), in squared units of x; of either sign.

    Raises:
        ValueError: as for `centroids`.

    Example:
        >>> import torch, grokscope as gs
        >>> unit = lambda x: torch.relu(x - 3)  # off where x < 3: mu = 0; on: mu = 1, b = -3
        >>> gs.radii(unit, torch.tensor([[1.0], [5.0]]))
        tensor([ 0., -5.])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        centroid = _flat_centroids(local)
        return (power_radius(centroid, local.outputs.sum(1), part.flatten(1)),)

    return over_batch(model, x, chunk_size, measure)[0]


def power_radius(
    centroid: Float[Tensor, "n d"], total: Float[Tensor, " n"], x: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """The radius, where 1^T b is what the centroid leaves of the summed outputs ``total``."""
    return centroid.square().sum(1) + 2 * (total - (centroid * x).sum(1))


def _flat_centroids(local: LocalMap) -> Float[Tensor, "n d"]:
    return local.vjp(torch.ones_like(local.outputs).unsqueeze(1)).squeeze(1)


def is_noise(
    centroid: Float[Tensor, " n"],
    jacobian: Float[Tensor, " n"],
    num_outputs: int,
    dtype: torch.dtype,
) -> Bool[Tensor, " n"]:
    """Where a centroid of this norm is what rounding to ``dtype`` leaves of such a Jacobian."""
    # k rows of random signs that cancel leave the root of k roundings, on the way through layers
    # some more; 16 in eight bits would be a quarter of the Jacobian, and no sign of noise
    level = (1.5 if _is_half(dtype) else 16) * torch.finfo(dtype).eps * num_outputs**0.5
    return (centroid > 0) & (centroid <= level * jacobian)


def noise_share(dtype: torch.dtype) -> float:
    """The share of a centroid that two ways to it must differ by for it to be noise."""
    # what is left of the difference of two products has their roundings
    return 0.5 if _is_half(dtype) else 0.1


def _is_half(dtype: torch.dtype) -> bool:
    return dtype.itemsize < 4


def weights_across(num_outputs: int) -> Float[Tensor, " k"]:
    """Random weights of outputs that sum to zero, and so see what their sum does not."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(num_outputs, generator=generator, dtype=torch.float64)
    return weights - weights.mean()


def warn_of_noise(noise: Bool[Tensor, " n"]) -> None:
    """Warn once where the cosines of some centroids were left out."""
    if bool(noise.any()):
        warnings.warn(
            f"the centroids of {int(noise.sum())} of {len(noise)} examples are rounding noise, as "
            "the model's outputs sum to a constant (a softmax, or two logits of opposite sign): "
            "their cosines are NaN; take the logits, or a difference of outputs with gs.View",
            RuntimeWarning,
            stacklevel=3,
        )


def bounds_of_sum(local: LocalMap) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The bounds between which every example's summed outputs are known, in round terms."""
    total, size = local.outputs.sum(1), local.outputs.abs().sum(1)
    share = 1e-2 if _is_half(local.outputs_precision) else 1e-3
    return total - share * size, total + share * size


def about_constant(lower: Float[Tensor, " n"], upper: Float[Tensor, " n"]) -> bool:
    """Whether one number lies between the bounds of all examples; then it does for any of them."""
    return bool(lower.amax() <= upper.amin())


def noise_of(local: LocalMap, centroid: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Where the centroid is rounding noise.

    The Jacobian is asked for more only where the outputs' sum is about the same for all examples.
    Two signs tell: the centroid is nothing beside a product with other weights, or it comes out
    differently as the difference of two products, as behind a softmax that is saturated.
    """
    n, k = local.outputs.shape
    if k == 1 or not about_constant(*bounds_of_sum(local)):
        return torch.zeros(n, dtype=torch.bool, device=centroid.device)
    weights = weights_across(k).to(local.outputs)
    across, both = local.vjp(torch.stack([weights, 1 + weights]).expand(n, 2, k)).unbind(1)
    length = norms(centroid)
    jacobian = norms(across) / weights.norm() * k**0.5
    apart = norms(both - across - centroid) > noise_share(local.precision) * length
    return is_noise(length, jacobian, k, local.precision) | apart
