"""The Jacobian of a network's outputs with respect to its input, one matrix for each example.

    A_x = d f(x) / d x    (k, d)

On the linear region of x a piecewise-linear network is f(x') = A_x x' + b_x. GrokAlign (Walker,
Humayun, Balestriero & Baraniuk 2025, arXiv:2506.12284, sections 2-3) explains grokking by A_x:
its rows turn towards x (alignment), it becomes of rank one (PC1), and bounding its Frobenius norm
brings both about.

Cost: one forward pass and k vector-Jacobian products. A chain of linear layers and
piecewise-linear activations is multiplied out instead, without an (n, k, d) tensor where the
answer needs none. Memory grows with n; ``chunk_size`` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, batch_size
from grokscope.measures.inputs import Model, generator_or_fresh
from grokscope.measures.local_map import LocalMap, Products, over_batch
from grokscope.measures.magnitudes import cosine, norms, scaled
from grokscope.measures.spectra import gram_eigenvalues


@checked_arguments
def input_jacobian(
    model: Model, x: Batch, *, chunk_size: int | None = None
) -> Float[Tensor, "n k *d"]:
    """The Jacobian of the outputs with respect to the input, for every example.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        A (n, k, *d), k = 1 for a model with outputs (n,).

    Raises:
        ValueError: if ``x`` has no batch axis, is empty or not finite; if the model mixes the
            examples of a batch or draws at random (BatchNorm, dropout in training mode), or its
            outputs have another shape or no gradient.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.input_jacobian(torch.nn.Linear(3, 2), torch.ones(5, 3)).shape
        torch.Size([5, 2, 3])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        return (local.jacobian().unflatten(2, part.shape[1:]),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def jacobian_norm(
    model: Model,
    x: Batch,
    projections: int | None = None,
    generator: torch.Generator | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, " n"]:
    """The Frobenius norm of the Jacobian, for every example.

    With ``projections`` = r it is estimated from r random directions u on the unit sphere of the
    outputs (Hoffman, Roberts & Yaida 2019, section 2.3):

        ||A||^2 ~ k / r  sum_i ||u_i^T A||^2,

    which is unbiased. What is returned is the root of that estimate, hence a little below the
    norm on average. It costs r vector-Jacobian products instead of k.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        projections: random directions for each example; exact if None.
        generator: source of the directions. If None, a fresh one seeded by the operating system:
            the global random state is left alone, and two calls differ.
        chunk_size: examples at a time; all of them if None. Estimates do not depend on it.

    Returns:
        The norms (n,).

    Raises:
        ValueError: as for `input_jacobian`, if ``projections`` is less than 1, or None beside a
            generator.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.jacobian_norm(lambda x: 3 * x, torch.ones(2, 4))
        tensor([6., 6.])
    """
    if projections is None and generator is not None:
        raise ValueError("generator is for projections, which it draws: pass projections=10")
    if projections is None:
        return over_batch(model, x, chunk_size, lambda local, _: (local.norm(),))[0]
    if projections < 1:
        raise ValueError(f"projections must be a positive integer or None: got {projections}")

    following = directions_by_chunk(batch_size(x), projections, generator_or_fresh(generator))

    def measure(local: LocalMap, _: Tensor) -> tuple[Tensor]:
        return (projected_norm(local.vjp(following(local.outputs)), local.outputs.shape[1]),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def jacobian_alignment(
    model: Model, x: Batch, *, chunk_size: int | None = None
) -> Float[Tensor, "n k"]:
    """The cosine of every row of the Jacobian with the input it was taken at.

    A network is Jacobian-aligned at x if every row is parallel to x, A_x = c x^T (GrokAlign,
    section 3): every entry is then 1 or -1.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Cosines (n, k) in [-1, 1]; 0 where the row or x is zero, a vector without a direction.

    Raises:
        ValueError: as for `input_jacobian`.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.jacobian_alignment(lambda x: x.square().sum(1), torch.tensor([[3.0, -4.0]]))
        tensor([[1.]])
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor]:
        return (row_alignment(local.products(), part.flatten(1)),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def jacobian_pc1(model: Model, x: Batch, *, chunk_size: int | None = None) -> Float[Tensor, " n"]:
    """The share of the Jacobian's first principal component, sigma_1^2 / sum_i sigma_i^2.

    It is 1 exactly where the Jacobian has rank one, and at least 1 / min(k, d). The singular
    values are those of the matrix itself, not centered, and of one example: the paper's low-rank
    assumption is about each A_x.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        Shares (n,) in (0, 1]; 0 where the Jacobian is zero, which no other one reaches, and NaN
        where the network's own derivative is not finite.

    Raises:
        ValueError: as for `input_jacobian`.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.jacobian_pc1(lambda x: x * torch.tensor([1.0, 2.0, 2.0]), torch.ones(1, 3))
        tensor([0.4444])
    """

    def measure(local: LocalMap, _: Tensor) -> tuple[Tensor]:
        return (first_component_share(local.products()),)

    return over_batch(model, x, chunk_size, measure)[0]


@checked_arguments
def affine_map(
    model: Model, x: Batch, *, chunk_size: int | None = None
) -> tuple[Float[Tensor, "n k *d"], Float[Tensor, "n k"]]:
    """The affine map A x' + b that the network is close to every example.

    For a piecewise-linear network f(x') = A x' + b holds on the whole linear region of x; for a
    smooth one it is the tangent at x. b = f(x) - A x.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        A (n, k, *d) and b (n, k).

    Raises:
        ValueError: as for `input_jacobian`.

    Example:
        >>> import torch, grokscope as gs
        >>> A, b = gs.affine_map(lambda x: 2 * x + 1, torch.ones(1, 2))
        >>> A.squeeze(0), b
        (tensor([[2., 0.],
                [0., 2.]]), tensor([[1., 1.]]))
    """

    def measure(local: LocalMap, part: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = local.jacobian()
        along_x = (jacobian @ part.flatten(1).unsqueeze(2)).squeeze(2)
        return jacobian.unflatten(2, part.shape[1:]), local.outputs - along_x

    jacobian, offset = over_batch(model, x, chunk_size, measure)
    return jacobian, offset


def directions_by_chunk(
    n: int, projections: int, generator: torch.Generator
) -> Callable[[Tensor], Float[Tensor, "m r k"]]:
    """A function of a chunk's outputs (m, k), which returns the random directions of its examples.

    They are drawn for the whole batch at once, so that chunks do not matter.
    """
    remaining: list[Tensor] = []

    def following(outputs: Tensor) -> Tensor:
        m, k = outputs.shape
        if not remaining:
            remaining.extend(unit_vectors((n, projections, k), generator, outputs))
        directions = torch.stack(remaining[:m])
        del remaining[:m]
        return directions

    return following


def projected_norm(products: Float[Tensor, "n r d"], num_outputs: int) -> Float[Tensor, " n"]:
    """The root of the estimate of ||A||^2 from r products u_i^T A with random unit vectors."""
    return (num_outputs / products.shape[1]) ** 0.5 * norms(products.flatten(1))


def unit_vectors(
    shape: tuple[int, int, int], generator: torch.Generator | None, like: Tensor
) -> Float[Tensor, "n r k"]:
    """Random unit vectors of length k, uniform on the sphere, r for each example.

    ``generator`` (None: the global one) may live on another device than ``like``, whose device and
    dtype the result has.
    """
    device = "cpu" if generator is None else generator.device
    normal = torch.randn(shape, generator=generator, device=device).to(like)
    return normal.div_(torch.linalg.vector_norm(normal, dim=2, keepdim=True))


def row_alignment(products: Products, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """Cosines of the Jacobian's rows with x, 0 for a zero vector."""
    rows = products.gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    _, size = scaled(x)
    return cosine(products.along_x / size[:, None], rows * (norms(x) / size)[:, None])


def first_component_share(products: Products) -> Float[Tensor, " n"]:
    """sigma_1^2 / sum_i sigma_i^2 from the k x k Gram matrix, whose eigenvalues are sigma_i^2."""
    relative = scaled(products.sizes)[0]  # rows far below the largest do not count
    gram = products.gram * relative.unsqueeze(1) * relative.unsqueeze(2)
    total = gram.diagonal(dim1=1, dim2=2).sum(1)
    usable = torch.isfinite(gram).all(2).all(1) & (total > 0)
    # The solver refuses NaN, and one diverged example must not hide the others.
    gram = torch.where(usable[:, None, None], gram / total[:, None, None], 0)
    share = gram_eigenvalues(gram)[:, -1].clamp_max(1)
    return torch.where(usable | (total == 0), share, torch.nan)
