"""Every Jacobian and centroid measure of a batch from one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, leaf_at, wrt_key
from grokscope.measures.centroid import is_noise, warn_of_noise
from grokscope.measures.jacobian import first_component_share, row_alignment
from grokscope.measures.local_map import LocalMap, over_batch
from grokscope.measures.magnitudes import cosines, norms
from grokscope.measures.view import Model, continuous, wrt_of
from grokscope.shown import shown


@shown("norm", "pc1", "alignment", "centroid_norm", "centroid_alignment", "centroid_inner_product")
@dataclass(frozen=True, eq=False, repr=False)
class JacobianGeometry:
    """What `jacobian_geometry` measured; every field is as the function of that name returns it.

    Attributes:
        inputs: the batch (n, *d) that was measured; of several tensors the one that derivatives
            were taken by.
        norm: `jacobian_norm`, (n,).
        alignment: `jacobian_alignment`, (n, k).
        pc1: `jacobian_pc1`, (n,).
        centroids: `centroids`, (n, *d).
        centroid_alignment: `centroid_alignment`, (n,).
        centroid_inner_product: `centroid_inner_product`, (n,).
    """

    inputs: Float[Tensor, " n *d"]
    norm: Float[Tensor, " n"]
    alignment: Float[Tensor, "n k"]
    pc1: Float[Tensor, " n"]
    centroids: Float[Tensor, " n *d"]
    centroid_alignment: Float[Tensor, " n"]
    centroid_inner_product: Float[Tensor, " n"]

    @property
    def centroid_norm(self) -> Float[Tensor, " n"]:
        """The Euclidean norm of every centroid, (n,)."""
        return norms(self.centroids.flatten(1))


@checked_arguments
def jacobian_geometry(model: Model, x: Batch, *, chunk_size: int | None = None) -> JacobianGeometry:
    """All Jacobian and centroid measures of a batch, sharing one pass.

    Cost: that of the Jacobian, once. For a chain of linear layers (widths h_1, h_2, ... h_1 the
    layer next to the input) O(n k h_1 h_2 + n k h_1^2 + h_1^2 d), with no (n, k, d) tensor.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch: a tensor (n, *d), or a tuple, list or dictionary of tensors with a
            floating-point one (n, *d) to differentiate by (see `View`).
        chunk_size: examples at a time; all of them if None.

    Returns:
        The measures, each for every example.

    Raises:
        ValueError: as for `input_jacobian`.

    Example:
        >>> import torch, grokscope as gs
        >>> geometry = gs.jacobian_geometry(lambda x: 2 * x, torch.tensor([[3.0, 4.0]]))
        >>> geometry.norm, geometry.centroid_alignment
        (tensor([2.8284]), tensor([0.9899]))
    """
    return geometry_of(model, x, over_batch(model, x, chunk_size, measured_in_full))


def geometry_of(model: Model, x: Batch, parts: tuple[Tensor, ...]) -> JacobianGeometry:
    """The measures of a batch, from what `measured_in_full` returned; warns once of noise."""
    *measures, noise = parts
    warn_of_noise(noise)
    by = continuous(model, x)
    return JacobianGeometry(leaf_at(by, wrt_key(by, wrt_of(model))).detach(), *measures)


def measured_in_full(local: LocalMap, x: Tensor) -> tuple[Tensor, ...]:
    """The fields of `JacobianGeometry` but its inputs, and where the centroid is noise."""
    products, flat = local.products(), x.flatten(1)
    norm = products.norm()
    k = local.outputs.shape[1]
    noise = is_noise(norms(products.centroid), norm, k, local.precision)
    cosine = torch.where(noise, torch.nan, cosines(products.centroid, flat))
    return (
        norm,
        row_alignment(products, flat),
        first_component_share(products),
        products.centroid.view_as(x),
        cosine,
        (products.centroid * flat).sum(1),
        noise,
    )
