"""Jacobian and centroid measures of a batch where its whole Jacobians are dear.

All k rows of the Jacobian take k backward passes. Where the network is no chain of linear layers
and k is large, the rows are taken at some examples only, spread evenly over the batch, and the
others get what a few backward passes give: the centroid exactly, and the norm from r random
projections (Hoffman, Roberts & Yaida 2019, section 2.3; see `jacobian_norm`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.centroid import about_constant, bounds_of_sum, noise_of
from grokscope.measures.chain import chain_of
from grokscope.measures.geometry import (
    JacobianGeometry,
    geometry_of,
    jacobian_geometry,
    measured_in_full,
)
from grokscope.measures.inputs import Model, check_count
from grokscope.measures.jacobian import directions_by_chunk, projected_norm
from grokscope.measures.local_map import LocalMap, over_batch
from grokscope.measures.magnitudes import cosines
from grokscope.measures.view import outputs_of, unwrapped

# from so many outputs on, rows are dear
DEAR_OUTPUTS = 10
# at 10 outputs a quarter of the examples get all their rows, at more outputs fewer, but some
_ROWS_AN_EXAMPLE, _FEWEST = 2.5, 4
PROJECTIONS = 4


def sampled_points(model: nn.Module, x: Batch) -> int:
    """At how many examples of a batch `sampled_geometry` had better take all rows.

    All n for a chain of linear layers, whose Jacobian takes no backward pass, and for fewer than
    10 outputs; otherwise 2.5 n / k, but at least 4.

    Cost: a forward pass of one example.
    """
    n = batch_size(x)
    if isinstance(x, Tensor) and chain_of(unwrapped(model), x) is not None:
        return n
    with torch.no_grad():
        num_outputs = outputs_of(model, rows(x, slice(0, 1))).flatten(1).shape[1]
    if num_outputs < DEAR_OUTPUTS:
        return n
    return min(n, max(_FEWEST, round(_ROWS_AN_EXAMPLE * n / num_outputs)))


def sampled_geometry(
    model: Model,
    x: Batch,
    num_points: int,
    projections: int = PROJECTIONS,
    *,
    chunk_size: int | None = None,
) -> JacobianGeometry:
    """`jacobian_geometry` with all rows of the Jacobian at ``num_points`` of the examples only.

    Cost: two forward passes, k backward passes of ``num_points`` examples and ``projections`` + 1
    of the others.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch, as for `jacobian_geometry`.
        num_points: examples, spread evenly, that are measured in full.
        projections: random directions for each of the others. They are the same in every call, so
            that curves over training do not jump.
        chunk_size: examples at a time; all of them if None.

    Returns:
        The measures, each for every example. At those not measured in full ``alignment`` and
        ``pc1`` are NaN, and ``norm`` is the root of an unbiased estimate of its square, hence a
        little low on average.

    Raises:
        ValueError: as for `input_jacobian`, or if ``num_points`` or ``projections`` is less than 1.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(5, 12), torch.nn.Tanh())
        >>> geometry = sampled_geometry(model, torch.ones(8, 5), 4)
        >>> geometry.norm.isnan().sum(), geometry.pc1.isnan().sum()
        (tensor(0), tensor(4))
    """
    check_count("num_points", num_points)
    check_count("projections", projections)
    n = batch_size(x)
    if num_points >= n:
        return jacobian_geometry(model, x, chunk_size=chunk_size)
    full = torch.linspace(0, n - 1, num_points, dtype=torch.float64).round().long()
    others = torch.ones(n, dtype=torch.bool).index_fill_(0, full, False).nonzero().flatten()
    following = directions_by_chunk(len(others), projections, torch.Generator().manual_seed(0))

    def estimated(local: LocalMap, part: Tensor) -> tuple[Tensor, ...]:
        return _estimated(local, part, following(local.outputs))

    exact = over_batch(model, rows(x, full.tolist()), chunk_size, measured_in_full)
    *rough, lower, upper = over_batch(model, rows(x, others.tolist()), chunk_size, estimated)
    rough[-1] &= about_constant(lower, upper)
    rough[4] = torch.where(rough[-1], torch.nan, rough[4])
    back = torch.cat([full, others]).argsort().to(exact[0].device)
    parts = tuple(torch.cat(pair)[back] for pair in zip(exact, rough, strict=True))
    return geometry_of(model, x, parts)


def _estimated(
    local: LocalMap, x: Float[Tensor, " n *d"], directions: Float[Tensor, "n r k"]
) -> tuple[Tensor, ...]:
    """The same as `measured_in_full` returns, and `bounds_of_sum`.

    NaN stands for what needs all rows; the cosines of noise are still there.
    """
    k = local.outputs.shape[1]
    ones = torch.ones_like(local.outputs).unsqueeze(1)
    products = local.vjp(torch.cat([ones, directions], 1))
    centroid, flat = products[:, 0], x.flatten(1)
    unknown = torch.full_like(local.outputs, torch.nan)
    return (
        projected_norm(products[:, 1:], k),
        unknown,
        unknown[:, 0],
        centroid.view_as(x),
        cosines(centroid, flat),
        (centroid * flat).sum(1),
        noise_of(local, centroid),
        *bounds_of_sum(local),
    )
