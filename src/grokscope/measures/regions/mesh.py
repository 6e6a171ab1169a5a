"""A planar mesh of convex cells that share their vertices and edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grokscope.measures.regions.rings import Floats, Ints, Rings

FRAME = -1
"""The layer of the edges that bound the domain: no layer made them."""


@dataclass(frozen=True)
class Mesh:
    """A convex domain cut into convex cells.

    Attributes:
        vertices: (V, 2), positions in slice coordinates.
        edges: (E, 2), the two vertices of each edge.
        labels: (E, 3), what made each edge: layer, unit of the layer, kink of the unit.
        rings: the cells' outlines.
    """

    vertices: Floats
    edges: Ints
    labels: Ints
    rings: Rings

    @staticmethod
    def polygon(corners: Floats) -> Mesh:
        """The mesh of one cell, with the given corners in counter-clockwise order."""
        count = len(corners)
        index = np.arange(count)
        return Mesh(
            vertices=corners,
            edges=np.stack([index, np.roll(index, -1)], axis=1),
            labels=np.tile([FRAME, 0, 0], (count, 1)),
            rings=Rings(np.array([0, count]), index, index),
        )

    def part(self, faces: Ints) -> Mesh:
        """The mesh of some of the cells, in that order."""
        rings = self.rings.take(faces)
        kept, vertices = np.unique(rings.vertices, return_inverse=True)
        kept_edges, edges = np.unique(rings.edges, return_inverse=True)
        return Mesh(
            self.vertices[kept],
            np.searchsorted(kept, self.edges[kept_edges]),
            self.labels[kept_edges],
            Rings(rings.start, vertices, edges),
        )

    @property
    def num_faces(self) -> int:
        """The number of cells."""
        return len(self.rings)

    @cached_property
    def areas(self) -> Floats:
        """(F,), the cells' areas, by the shoelace formula about a corner of each cell."""
        rings = self.rings
        corner = self.vertices[rings.vertices]
        corner = corner - np.repeat(corner[rings.start[:-1]], rings.lengths, axis=0)
        after = corner[rings.following]
        cross = corner[:, 0] * after[:, 1] - corner[:, 1] * after[:, 0]
        return np.add.reduceat(cross, rings.start[:-1]) / 2

    @cached_property
    def centers(self) -> Floats:
        """(F, 2), an interior point of each cell: the mean of its vertices."""
        rings = self.rings
        total = np.add.reduceat(self.vertices[rings.vertices], rings.start[:-1], axis=0)
        return total / rings.lengths[:, None]

    @cached_property
    def edge_faces(self) -> Ints:
        """(E, 2), the cells left and right of each edge; -1 outside the domain."""
        rings = self.rings
        faces = np.full((len(self.edges), 2), -1)
        side = (self.edges[rings.edges, 0] != rings.vertices).astype(np.int64)
        faces[rings.edges, side] = rings.owner
        return faces

    @cached_property
    def num_vertices(self) -> int:
        """The number of vertices."""
        return len(self.vertices)
