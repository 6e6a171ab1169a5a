"""Where points are among the cells: which cell, how far from an edge, how many cells near."""

from __future__ import annotations

import numpy as np

from grokscope.measures.regions.mesh import FRAME, Floats, Ints, Mesh, runs, starts

_POINTS_AT_ONCE = 2**15


class CellGrid:
    """A square grid over the domain whose squares list the cells that may reach into them.

    Building it is linear in the number of cells, and a query costs the few cells of its squares.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        rings = mesh.rings
        corner = mesh.vertices[rings.vertices]
        low = np.minimum.reduceat(corner, rings.start[:-1], axis=0)
        high = np.maximum.reduceat(corner, rings.start[:-1], axis=0)
        self._low, self._high = low.min(axis=0), high.max(axis=0)
        self._side = int(np.ceil(np.sqrt(mesh.num_faces)))
        # Long thin cells lie across many squares: coarsen until the lists are short in all.
        while self._covered(low, high)[1].prod(axis=1).sum() > 32 * mesh.num_faces + 1024:
            self._side = max(1, self._side // 2)
        square, cell = self._squares(low, high)
        order = np.argsort(square, kind="stable")
        self._cells = cell[order]
        self._start = starts(np.bincount(square, minlength=self._side**2))

    def _covered(self, low: Floats, high: Floats) -> tuple[Ints, Ints]:
        """The first square along each axis that boxes lie on, and how many."""
        span = self._high - self._low
        ends = [
            np.clip((end - self._low) / span * self._side, 0, self._side - 1).astype(np.int64)
            for end in (low, high)
        ]
        return ends[0], ends[1] - ends[0] + 1

    def _squares(self, low: Floats, high: Floats) -> tuple[Ints, Ints]:
        """Every (square, box) with the box on the square."""
        first, count = self._covered(low, high)
        rows = runs(first[:, 1], count[:, 1])
        box = np.repeat(np.arange(len(low)), count[:, 1])
        columns = runs(first[box, 0], count[box, 0])
        return (
            np.repeat(rows, count[box, 0]) * self._side + columns,
            np.repeat(box, count[box, 0]),
        )

    def near(self, low: Floats, high: Floats) -> tuple[Ints, Ints]:
        """Every (box, cell) where the cell may reach into the box, once, sorted by box."""
        square, box = self._squares(low, high)
        number = np.diff(self._start)[square]
        cell = self._cells[runs(self._start[square], number)]
        pairs = np.unique(np.repeat(box, number) * self._mesh.num_faces + cell)
        box, cell = np.divmod(pairs, self._mesh.num_faces)
        return box, cell

    def locate(self, points: Floats) -> Ints:
        """(n,), the cell of each point (n, 2), -1 outside; on an edge, one of its two cells."""
        parts = [
            self._locate(points[i : i + _POINTS_AT_ONCE])
            for i in range(0, len(points), _POINTS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def _locate(self, points: Floats) -> Ints:
        point, cell = self.near(points, points)
        depth = self.depth(points[point], cell)
        order = np.lexsort((depth, point))
        deepest = order[np.concatenate([point[order][1:] != point[order][:-1], [True]])]
        size = np.abs(self._mesh.vertices).max()
        inside = depth[deepest] >= -1e-12 * size
        found = np.full(len(points), -1)
        found[point[deepest]] = np.where(inside, cell[deepest], -1)
        return found

    def depth(self, points: Floats, cells: Ints) -> Floats:
        """(m,), how far inside its cell each point is: the least distance to a side, signed."""
        rings = self._mesh.rings.take(cells)
        corner = self._mesh.vertices[rings.vertices]
        side = corner[rings.following] - corner
        offset = points[rings.owner] - corner
        length = np.hypot(side[:, 0], side[:, 1])
        cross = side[:, 0] * offset[:, 1] - side[:, 1] * offset[:, 0]
        distance = np.divide(cross, length, out=np.full(len(cross), np.inf), where=length > 0)
        return np.minimum.reduceat(distance, rings.start[:-1])


_PAIRS_AT_ONCE = 2**22


def to_segments(points: Floats, start: Floats, end: Floats) -> Floats:
    """(m,), the distance of each point (m, 2) to the segment of its row."""
    along = end - start
    square = (along**2).sum(axis=1)
    # the foot of the perpendicular, held to the segment; a segment of no length is its start
    t = ((points - start) * along).sum(axis=1)
    t = np.clip(np.divide(t, square, out=np.zeros_like(t), where=square > 0), 0, 1)
    return np.hypot(*(start + t[:, None] * along - points).T)


def to_nearest_edge(mesh: Mesh, grid: CellGrid, points: Floats, metric: Floats) -> Floats:
    """(n,), the distance of each point (n, 2) to the nearest edge between two cells.

    The straight way from a point to any edge first meets the boundary of the point's own cell,
    so only that is searched. NaN outside the domain, infinity where nothing splits it.
    """
    cells = grid.locate(points)
    inside = np.nonzero(cells >= 0)[0]
    rings = mesh.rings.take(cells[inside])
    placed = mesh.vertices @ metric
    start = placed[rings.vertices]
    distance = to_segments((points @ metric)[inside][rings.owner], start, start[rings.following])
    distance[mesh.labels[rings.edges, 0] == FRAME] = np.inf
    nearest = np.full(len(points), np.nan)
    if len(inside):
        nearest[inside] = np.minimum.reduceat(distance, rings.start[:-1])
    return nearest


def to_nearest_segment(points: Floats, segments: Floats, metric: Floats) -> Floats:
    """(n,), the distance of each point (n, 2) to the nearest of segments (s, 2, 2)."""
    nearest = np.full(len(points), np.inf)
    placed, segments = points @ metric, segments @ metric
    step = max(1, _PAIRS_AT_ONCE // max(1, len(points)))
    for first in range(0, len(segments), step):
        chunk = segments[first : first + step]
        each = np.repeat(placed, len(chunk), axis=0)
        start, end = np.tile(chunk, (len(points), 1, 1)).transpose(1, 0, 2)
        distance = to_segments(each, start, end).reshape(len(points), len(chunk))
        nearest = np.minimum(nearest, distance.min(axis=1))
    return nearest


def num_within(
    mesh: Mesh, grid: CellGrid, points: Floats, radius: float, metric: Floats, units: bool
) -> Ints:
    """(n,), how many cells, or units that made an edge, come within ``radius`` of each point."""
    reach = radius * np.sqrt(np.diag(np.linalg.inv(metric @ metric.T)))
    point, cell = grid.near(points - reach, points + reach)
    rings = mesh.rings.take(cell)
    start = (mesh.vertices @ metric)[rings.vertices]
    owner = point[rings.owner]
    close = to_segments((points @ metric)[owner], start, start[rings.following]) <= radius
    if units:
        label = mesh.labels[rings.edges[close]]
        made = label[:, 0] != FRAME
        found = np.unique(np.column_stack([owner[close], label[:, :2]])[made], axis=0)
        return np.bincount(found[:, 0], minlength=len(points))
    touched = np.logical_or.reduceat(close, rings.start[:-1]) if len(cell) else close
    # a cell that holds the point counts, however far its outline is
    touched |= grid.depth(points[point], cell) >= 0
    return np.bincount(point[touched], minlength=len(points))


def edge_density(
    mesh: Mesh, grid: CellGrid, points: Floats, radius: float, metric: Floats
) -> Floats:
    """(n,), the length of edges between cells within ``radius`` of each point, by the disc's area.

    NaN where the disc is not within the domain.
    """
    reach = radius * np.sqrt(np.diag(np.linalg.inv(metric @ metric.T)))
    point, cell = grid.near(points - reach, points + reach)
    rings = mesh.rings.take(cell)
    # An edge is on the outlines of two cells, and is counted once.
    pairs = np.unique(np.stack([point[rings.owner], rings.edges]), axis=1)
    point, edge = pairs[:, mesh.labels[pairs[1], 0] != FRAME]
    placed, center = mesh.vertices @ metric, points @ metric
    start, end = placed[mesh.edges[edge]].swapaxes(0, 1)
    # |start + t along - center| = radius is quadratic in t: its roots bound what is inside.
    along, offset = end - start, start - center[point]
    square, half = (along**2).sum(axis=1), (along * offset).sum(axis=1)
    root = np.sqrt(np.maximum(half**2 - square * ((offset**2).sum(axis=1) - radius**2), 0))
    first, last = (np.clip((-half + side * root) / square, 0, 1) for side in (-1, 1))
    length = np.bincount(point, (last - first) * np.sqrt(square), minlength=len(points))
    frame = placed[mesh.edges[mesh.labels[:, 0] == FRAME]]
    inside = (grid.locate(points) >= 0) & (
        to_nearest_segment(center, frame, np.eye(2)) >= radius * (1 - 1e-9)
    )
    return np.where(inside, length / (np.pi * radius**2), np.nan)
