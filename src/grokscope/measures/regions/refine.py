"""Split a mesh by all the bends of one layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from grokscope.measures.regions.dissolve import dissolve
from grokscope.measures.regions.mesh import Mesh
from grokscope.measures.regions.network import Layer, Network
from grokscope.measures.regions.rings import Ints
from grokscope.measures.regions.split import split

# Entries of a block of function values at the vertices, and the most functions in a block. Cells
# multiply within a block, so a small mesh must not be met with very many functions at once.
_BLOCK_ENTRIES = 2**25
_BLOCK_COLUMNS = 512
_LEAST_COLUMNS = 64


def refine(
    mesh: Mesh,
    network: Network,
    layer: Layer,
    index: int,
    on_round: Callable[[int], None] = lambda num_faces: None,
) -> tuple[Mesh, Ints]:
    """The mesh split by every bend of a layer, whose edges are labelled with ``index``.

    Returns:
        the finer mesh, and the cell of ``mesh`` that each of its cells lies in.
    """
    # In a random order the number of rounds grows with the logarithm of the number of units;
    # in an order that runs along the slice it would grow with the number itself.
    generator = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(layer.columns.num_units, generator=generator, device="cpu")
    parents = np.arange(mesh.num_faces)
    begin = 0
    while begin < len(order):
        size = max(_LEAST_COLUMNS, min(_BLOCK_COLUMNS, _BLOCK_ENTRIES // mesh.num_vertices))
        units = order[begin : begin + size]
        begin += size
        before = mesh.num_vertices
        for stage in range(layer.columns.num_stages):
            labels = layer.columns.labels(units, stage)
            values, tolerance = network.columns(layer, mesh.vertices, units, stage)
            labels = np.insert(labels, 0, index, axis=1)
            mesh, within = split(mesh, values, tolerance, labels, on_round)
            parents = parents[within]
        if layer.columns.overcuts:
            mesh, within = _without_overcuts(mesh, network, layer, index, units, before)
            parents = parents[within]
    return mesh, parents


def _without_overcuts(
    mesh: Mesh, network: Network, layer: Layer, index: int, units: Tensor, before: int
) -> tuple[Mesh, Ints]:
    """The mesh without those edges of the layer that have one pattern on both sides."""
    pattern = network.pattern(layer, mesh.centers, units).numpy(force=True)
    candidates = np.nonzero(
        (mesh.labels[:, 0] == index) & np.isin(mesh.labels[:, 1], units.numpy())
    )[0]
    left, right = mesh.edge_faces[candidates].T
    removed = np.zeros(len(mesh.edges), dtype=bool)
    removed[candidates] = (pattern[left] == pattern[right]).all(axis=1)
    return dissolve(mesh, removed, before)
