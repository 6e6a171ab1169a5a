"""A planar mesh of convex cells that share their vertices and edges.

The cells' outlines are polygons of different lengths in three flat arrays, and everything here
works on all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def starts(lengths: Ints) -> Ints:
    """Where runs of these lengths begin when laid end to end, and where the last one ends."""
    start = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=start[1:])
    return start


def runs(first: Ints, lengths: Ints) -> Ints:
    """The integers first[i], first[i] + 1, ... (lengths[i] of them) of every run, end to end."""
    start = starts(lengths)
    return np.arange(start[-1]) + np.repeat(first - start[:-1], lengths)


@dataclass(frozen=True)
class Rings:
    """The outlines of F polygons with R corners in all.

    Attributes:
        start: (F + 1,), where each polygon begins.
        vertices: (R,), vertex numbers, counter-clockwise.
        edges: (R,), the edge from each corner to the next.
    """

    start: Ints
    vertices: Ints
    edges: Ints

    def __len__(self) -> int:
        return len(self.start) - 1

    @cached_property
    def lengths(self) -> Ints:
        """(F,), the number of corners of each polygon."""
        return np.diff(self.start)

    @cached_property
    def owner(self) -> Ints:
        """(R,), the polygon of each corner."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def following(self) -> Ints:
        """(R,), where the next corner of the same polygon stands."""
        following = np.arange(1, len(self.vertices) + 1)
        following[self.start[1:] - 1] = self.start[:-1]
        return following

    def take(self, faces: Ints) -> Rings:
        """The polygons ``faces``, in that order."""
        lengths = self.lengths[faces]
        corner = runs(self.start[faces], lengths)
        return Rings(starts(lengths), self.vertices[corner], self.edges[corner])

    @staticmethod
    def join(parts: Sequence[Rings]) -> Rings:
        """All polygons of ``parts``, one after the other."""
        return Rings(
            starts(np.concatenate([part.lengths for part in parts])),
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([part.edges for part in parts]),
        )


FRAME = -1
"""The layer of the edges that bound the domain: no layer made them."""


@dataclass(frozen=True)
class Mesh:
    """A convex domain cut into convex cells.

    Attributes:
        vertices: (V, 2), positions in slice coordinates; further columns, of what is affine on
            every cell, are interpolated with them.
        edges: (E, 2), the two vertices of each edge.
        labels: (E, 3), what made each edge: layer, unit of the layer, kink of the unit.
        rings: the cells' outlines.
    """

    vertices: Floats
    edges: Ints
    labels: Ints
    rings: Rings

    @staticmethod
    def polygons(outlines: Sequence[Floats]) -> Mesh:
        """The mesh of one cell for each outline (m, 2) of corners in counter-clockwise order.

        Where there are several, vertices have the number of their outline as a third column.
        """
        lengths = np.array([len(corners) for corners in outlines])
        start, count = starts(lengths), int(lengths.sum())
        vertices = np.concatenate(list(outlines))
        if len(outlines) > 1:
            vertices = np.column_stack([vertices, np.repeat(np.arange(len(outlines)), lengths)])
        index = np.arange(count)
        rings = Rings(start, index, index)
        return Mesh(
            vertices=vertices,
            edges=np.stack([index, rings.following], axis=1),
            labels=np.tile([FRAME, 0, 0], (count, 1)),
            rings=rings,
        )

    @property
    def islands(self) -> Ints:
        """(F,), the outline of ``polygons`` that each cell lies in."""
        if self.vertices.shape[1] == 2:
            return np.zeros(self.num_faces, dtype=np.int64)
        return self.vertices[self.rings.vertices[self.rings.start[:-1]], 2].astype(np.int64)

    def split_islands(self, count: int) -> list[Mesh]:
        """The part of the mesh in each outline, with positions alone at the vertices."""
        islands = self.islands
        order = np.argsort(islands, kind="stable")
        ends = np.cumsum(np.bincount(islands, minlength=count))[:-1]
        parts = [self.part(faces) for faces in np.split(order, ends)]
        return [replace(part, vertices=part.vertices[:, :2].copy()) for part in parts]

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
        # about a corner of its own: a small cell far from the origin would lose its digits
        corner = corner - np.repeat(corner[rings.start[:-1]], rings.lengths, axis=0)
        after = corner[rings.following]
        cross = corner[:, 0] * after[:, 1] - corner[:, 1] * after[:, 0]
        return np.add.reduceat(cross, rings.start[:-1]) / 2

    @cached_property
    def centers(self) -> Floats:
        """(F, 2), an interior point of each cell: the mean of its vertices."""
        return self.centers_of(np.arange(self.num_faces))

    def centers_of(self, faces: Ints) -> Floats:
        """(m, 2), an interior point of each of some cells."""
        rings = self.rings.take(faces)
        total = np.add.reduceat(self.vertices[rings.vertices], rings.start[:-1], axis=0)
        return total / rings.lengths[:, None]

    @cached_property
    def edge_faces(self) -> Ints:
        """(E, 2), the cells left and right of each edge; -1 outside the domain."""
        rings = self.rings
        faces = np.full((len(self.edges), 2), -1)
        # outlines run counter-clockwise: an edge walked along its direction has the cell to its
        # left
        side = (self.edges[rings.edges, 0] != rings.vertices).astype(np.int64)
        faces[rings.edges, side] = rings.owner
        return faces

    @cached_property
    def num_vertices(self) -> int:
        """The number of vertices."""
        return len(self.vertices)


def components(count: int, pairs: Ints) -> Ints:
    """(count,), a number for each of the connected components of a graph with edges (m, 2).

    Numbers run from 0 in the order of each component's first member.
    """
    # Hooking and pointer doubling (Shiloach and Vishkin 1982): both ends of a pair take the smaller
    # of their labels, chains of labels are followed to their ends, until nothing changes: about
    # log(count) rounds, where flooding from each member would take the diameter.
    label = np.arange(count)
    while True:
        low = label[pairs].min(axis=1)
        smaller = label.copy()
        for end in (0, 1):
            np.minimum.at(smaller, label[pairs[:, end]], low)
        while (smaller[smaller] != smaller).any():
            smaller = smaller[smaller]
        smaller = smaller[label]
        if (smaller == label).all():
            return np.unique(label, return_inverse=True)[1]
        label = smaller


class Polygons(Sequence[Tensor]):
    """The cells' outlines: item f is (m_f, 2), counter-clockwise, a view of ``corners``.

    Attributes:
        corners: (R, 2), all corners end to end.
        start: (F + 1,), where each polygon begins.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.corners = torch.from_numpy(mesh.vertices[mesh.rings.vertices])
        self.start = torch.from_numpy(mesh.rings.start)

    def __len__(self) -> int:
        return len(self.start) - 1

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"region {index} of {len(self)}")
        begin, end = self.start[index % len(self) :][:2].tolist()
        return self.corners[begin:end]
