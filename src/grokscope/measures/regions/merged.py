"""Cells that share one affine map, counted once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokscope.measures.regions.dissolve import components
from grokscope.measures.regions.maps import slice_maps
from grokscope.measures.regions.mesh import Mesh
from grokscope.measures.regions.network import Network


@dataclass(frozen=True)
class MergedRegions:
    """The connected pieces of the slice on which the network is one affine map.

    ``len()`` counts them. They are unions of activation cells and need not be convex: a unit that
    switches on where nothing after it listens makes two cells and one merged region.

    Attributes:
        labels: (F,), the merged region of each activation cell.
        areas: (M,), their areas.
        boundary: (E,), which of the cells' edges bound a merged region.
    """

    labels: Int[Tensor, " F"]
    areas: Float[Tensor, " M"]
    boundary: Bool[Tensor, " E"]

    def __len__(self) -> int:
        return len(self.areas)


def merged_regions(network: Network, mesh: Mesh, tolerance: float) -> MergedRegions:
    """Join neighbours whose gradients differ by no more than ``tolerance``, relatively.

    The function is continuous, so equal gradients on both sides of an edge mean equal maps.
    """
    gradient = slice_maps(network, mesh.centers)[0].flatten(1).numpy(force=True)
    faces = mesh.edge_faces
    inner = np.nonzero((faces >= 0).all(axis=1))[0]
    left, right = gradient[faces[inner, 0]], gradient[faces[inner, 1]]
    size = np.maximum(np.abs(left).max(axis=1), np.abs(right).max(axis=1))
    same = np.abs(left - right).max(axis=1) <= tolerance * size
    labels = components(mesh.num_faces, faces[inner[same]])
    boundary = np.ones(len(faces), dtype=bool)
    boundary[inner] = labels[faces[inner, 0]] != labels[faces[inner, 1]]
    return MergedRegions(
        torch.from_numpy(labels),
        torch.from_numpy(np.bincount(labels, mesh.areas)),
        torch.from_numpy(boundary),
    )
