"""Split a mesh by all the kinks of one layer.

The layer's inputs are affine on every cell that the layers before it left. So they are evaluated
once, at the vertices of those cells, by one forward pass, and interpolated at the vertices that
the layer's own kinks make: they travel through the splitting as further columns beside the
positions. Units that stay on one affine piece on every cell, which of a convolution's are nearly
all, are sorted out beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.measures.regions.joining import dissolve
from grokscope.measures.regions.kinks import KinkFunctions
from grokscope.measures.regions.mesh import Floats, Ints, Mesh
from grokscope.measures.regions.network import Layer, Network, tolerance
from grokscope.measures.regions.split import split

# Entries of a block of function values at the vertices, and the most functions in a block. Cells
# multiply within a block, so a small mesh must not be met with very many functions at once.
_BLOCK_ENTRIES = 2**25
_BLOCK_COLUMNS = 512
_LEAST_COLUMNS = 64

OnRound = Callable[[int], None]


def refine(
    mesh: Mesh,
    network: Network,
    layer: Layer,
    index: int,
    on_round: OnRound = lambda num_faces: None,
) -> tuple[Mesh, Ints]:
    """The mesh split by every kink of a layer, whose edges are labeled with ``index``.

    Returns:
        the finer mesh, and the cell of ``mesh`` that each of its cells lies in.
    """
    # In a random order the number of rounds grows with the logarithm of the number of units;
    # in an order that runs along the slice it would grow with the number itself.
    generator = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(layer.kinks.num_units, generator=generator, device="cpu")
    parents = np.arange(mesh.num_faces)
    width = mesh.vertices.shape[1]
    for units, inputs in _groups(mesh, network, layer, order):
        features, kinks = layer.kinks.select(units)
        if inputs is None:  # a group before this one has made further vertices
            whole = network.layer_inputs(layer, mesh.vertices)
            inputs = torch.cat([part[:, features.to(network.device)] for part in whole])
        scale = network.scale(layer)[features.to(network.device)]
        group = _Group(units, kinks, scale, index, width, on_round)
        mesh, within = group.split(mesh, inputs)
        parents = parents[within]
    return mesh, parents


def _groups(
    mesh: Mesh, network: Network, layer: Layer, order: Tensor
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The units to split by, in groups whose inputs fit in memory; the first may have them."""
    fits = _fits(mesh, layer.kinks.num_features)
    parts = list(network.layer_inputs(layer, mesh.vertices)) if fits else []
    if parts and layer.kinks.num_stages == 1 and len(order) <= _BLOCK_COLUMNS:
        features, _ = layer.kinks.select(order)
        yield order, torch.cat(parts)[:, features.to(network.device)]
        return
    scale = network.scale(layer)
    possible = [
        # bits along the axis of units: (n, pieces, units / 8)
        np.packbits(layer.kinks.possible(part, scale).numpy(force=True), axis=2)
        for part in (parts or network.layer_inputs(layer, mesh.vertices))
    ]
    kinked = _with_kinks(mesh, np.concatenate(possible), layer.kinks.num_units)
    units = order[torch.from_numpy(kinked)[order]]
    if not len(units):
        return
    features, _ = layer.kinks.select(units)
    if parts and _fits(mesh, len(features)):
        yield units, torch.cat([part[:, features.to(network.device)] for part in parts])
        return
    each = max(1, len(units) * _BLOCK_ENTRIES // (mesh.num_vertices * len(features)))
    for group in units.split(each):
        yield group, None


def _fits(mesh: Mesh, num_features: int) -> bool:
    return mesh.num_vertices * num_features <= _BLOCK_ENTRIES


def _with_kinks(mesh: Mesh, possible: NDArray[np.uint8], num_units: int) -> NDArray[np.bool_]:
    """(units,), which units are not on one piece at all corners of every cell."""
    rings = mesh.rings
    settled = np.full(possible.shape[2], 255, dtype=np.uint8)
    corners = max(1, _BLOCK_ENTRIES // possible[0].size)
    # Whole cells at a time, about as many corners as fit.
    ends = np.unique(np.searchsorted(rings.start, np.arange(0, rings.start[-1], corners)))
    for begin, end in zip(ends, [*ends[1:], len(rings)], strict=True):
        start = rings.start[begin : end + 1]
        here = possible[rings.vertices[start[0] : start[-1]]]
        everywhere = np.bitwise_and.reduceat(here, start[:-1] - start[0], axis=0)
        settled &= np.bitwise_and.reduce(np.bitwise_or.reduce(everywhere, axis=1), axis=0)
    return ~np.unpackbits(settled, count=num_units).astype(bool)


class _Group:
    """Some units of a layer, to split by in blocks, with their inputs beside the positions."""

    def __init__(
        self,
        units: Tensor,
        kinks: KinkFunctions,
        scale: Tensor,
        index: int,
        width: int,
        on_round: OnRound,
    ) -> None:
        self.units, self.kinks, self.scale = units.numpy(), kinks, scale
        self.index, self.width, self.on_round = index, width, on_round

    def split(self, mesh: Mesh, inputs: Tensor) -> tuple[Mesh, Ints]:
        """The mesh split by the units, given their inputs (V, features) at its vertices."""
        parents, columns, begin = np.arange(mesh.num_faces), mesh.vertices.shape[1], 0
        order = torch.arange(len(self.units), device="cpu")
        every = inputs.numpy(force=True)
        if self.kinks.num_stages == 1 and len(self.units) <= _BLOCK_COLUMNS:
            # One block of one stage: no input is needed at a new vertex.
            return self._by_stage(mesh, every, self.kinks, self.scale, self.units, 0)
        mesh = replace(mesh, vertices=np.hstack([mesh.vertices, every]))
        while begin < len(order):
            size = max(_LEAST_COLUMNS, min(_BLOCK_COLUMNS, _BLOCK_ENTRIES // mesh.num_vertices))
            block = order[begin : begin + size]
            begin += size
            mesh, within = self._by_block(mesh, block, columns)
            parents = parents[within]
        return replace(mesh, vertices=mesh.vertices[:, :columns].copy()), parents

    def _by_block(self, mesh: Mesh, block: Tensor, columns: int) -> tuple[Mesh, Ints]:
        features, kinks = self.kinks.select(block)
        scale = self.scale[features.to(self.scale.device)]
        at = columns + features.numpy()
        units, before = self.units[block.numpy()], mesh.num_vertices
        parents = np.arange(mesh.num_faces)
        for stage in range(kinks.num_stages):
            mesh, within = self._by_stage(mesh, mesh.vertices[:, at], kinks, scale, units, stage)
            parents = parents[within]
        if kinks.overcuts:
            mesh, within = self._without_overcuts(mesh, at, kinks, scale, units, before)
            parents = parents[within]
        return mesh, parents

    def _by_stage(
        self,
        mesh: Mesh,
        inputs: Floats,
        kinks: KinkFunctions,
        scale: Tensor,
        units: Ints,
        stage: int,
    ) -> tuple[Mesh, Ints]:
        values = kinks.values(torch.from_numpy(inputs), stage).numpy()
        unit, kink = kinks.labels(stage).T
        labels = np.stack([np.full_like(unit, self.index), units[unit], kink], axis=1)
        return split(mesh, values, tolerance(kinks.scales(scale, stage)), labels, self.on_round)

    def _without_overcuts(
        self,
        mesh: Mesh,
        at: Ints,
        kinks: KinkFunctions,
        scale: Tensor,
        units: Ints,
        num_kept: int,
    ) -> tuple[Mesh, Ints]:
        """Take out the edges of the block's units that part two cells with one pattern."""
        pattern = _pattern_of_cells(mesh, at, kinks, scale.cpu())
        candidates = np.nonzero(
            (mesh.labels[:, 0] == self.index) & np.isin(mesh.labels[:, 1], units)
        )[0]
        left, right = mesh.edge_faces[candidates].T
        removed = np.zeros(len(mesh.edges), dtype=bool)
        removed[candidates] = (pattern[left] == pattern[right]).all(axis=1)
        return dissolve(mesh, removed, num_kept)


def _pattern_of_cells(
    mesh: Mesh, at: Ints, kinks: KinkFunctions, scale: Tensor
) -> NDArray[np.int16]:
    """(F, units), the pattern at the mean of each cell's corners, from the inputs there."""
    rings = mesh.rings
    step = max(1, _BLOCK_ENTRIES // (4 * len(at)))
    parts = [np.zeros((0, kinks.num_units), dtype=np.int16)]
    for first in range(0, mesh.num_faces, step):
        start = rings.start[first : first + step + 1]
        corners = mesh.vertices[np.ix_(rings.vertices[start[0] : start[-1]], at)]
        total = np.add.reduceat(corners, start[:-1] - start[0], axis=0)
        center = torch.from_numpy(total / np.diff(start)[:, None])
        parts.append(kinks.pattern(center, scale).numpy())
    return np.concatenate(parts)
