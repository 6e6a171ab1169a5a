"""Split the cells of a mesh along the zero sets of functions that are affine on every cell.

The functions are given by their values at the mesh's vertices. `arrange` cuts the cells where no
line passes through a corner and no three meet. The others are cut in rounds: in every round each
cell that some function crosses is cut in two by one of them, all cells at once; the next round does
the same to the parts. Neighbouring cells share vertices, so a cut through their common edge is made
once and both see it. Which functions cross a cell is a set of bits: the union over its vertices of
where each is positive, met with the union of where each is negative.

In the rounds signs decide everything and positions nothing, so that rounding cannot tear the mesh.
A value within the tolerance counts as zero: a line through a vertex, or along an existing edge,
cuts there and makes no sliver.

About 2 log(cells) rounds, each linear in the corners of the cells still to be cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grokscope.measures.regions.arrangement import Arrangement, Bits, arrange, between, pack
from grokscope.measures.regions.mesh import Floats, Ints, Mesh, Rings, runs, starts


class GrowingArray:
    """Rows in a buffer that doubles when full; ``rows`` is a view of those in use."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._count = len(rows)
        self._buffer = np.empty((self._count + self._count // 2 + 64, *rows.shape[1:]), rows.dtype)
        self._buffer[: self._count] = rows

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> NDArray[Any]:
        """The rows in use; valid until the next ``append``."""
        return self._buffer[: self._count]

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        end = self._count + len(rows)
        if end > len(self._buffer):
            buffer = np.empty((2 * end, *self._buffer.shape[1:]), self._buffer.dtype)
            buffer[: self._count] = self.rows
            self._buffer = buffer
        self._buffer[self._count : end] = rows
        self._count = end


def split(
    mesh: Mesh,
    values: Floats,
    tolerance: Floats,
    labels: Ints,
    on_round: Callable[[int], None] = lambda num_faces: None,
) -> tuple[Mesh, Ints]:
    """The mesh cut along the zero set of every column of ``values``.

    Args:
        mesh: the mesh to refine; it is not changed.
        values: (V, C), each function at each vertex.
        tolerance: (C,), the largest magnitude that counts as zero.
        labels: (C, 3), what the edges made by each function are labeled with.
        on_round: called after each round with the number of cells so far; may raise to stop.

    Returns:
        the refined mesh, whose first V vertices are those of ``mesh``, and the cell of ``mesh``
        that each of its cells lies in.
    """
    found = arrange(mesh, values, tolerance, labels, on_round)
    if not len(found.left):
        return found.mesh, found.parents
    splitter = _Splitter(found, tolerance, labels)
    while len(splitter.active):
        splitter.round()
        on_round(splitter.num_faces)
    return splitter.result()


def _lowest(bits: Bits) -> Ints:
    """The lowest bit that is set in each row; every row has one."""
    word = np.argmax(bits != 0, axis=1)
    # x & -x keeps the lowest bit, a power of two, which a float64 holds exactly and of which frexp
    # gives the exponent plus one; ~x + 1 is -x without overflow in unsigned words.
    value = bits[np.arange(len(bits)), word]
    lowest = value & (~value + np.uint64(1))
    return 64 * word + np.frexp(lowest.astype(np.float64))[1] - 1


class _Splitter:
    def __init__(self, found: Arrangement, tolerance: Floats, labels: Ints) -> None:
        mesh, values = found.mesh, found.values
        self.tolerance = tolerance
        self.column_labels = labels
        self.vertices = GrowingArray(mesh.vertices)
        self.edges = GrowingArray(mesh.edges)
        self.edge_labels = GrowingArray(mesh.labels)
        positive, negative = values > tolerance, values < -tolerance
        self.values = GrowingArray(values)
        self.signs = GrowingArray(pack(positive, negative))
        # What `arrange` has cut comes first and is final; only the cells of ``left`` go into
        # rounds.
        done = np.arange(mesh.num_faces - len(found.left))
        self.finished: list[Rings] = [mesh.rings.take(done)]
        self.finished_parents: list[Ints] = [found.parents[done]]
        self.num_finished = len(done)
        self._retire(mesh.rings.take(found.left), found.parents[found.left])

    @property
    def num_faces(self) -> int:
        return self.num_finished + len(self.active)

    def result(self) -> tuple[Mesh, Ints]:
        mesh = Mesh(
            self.vertices.rows.copy(),
            self.edges.rows.copy(),
            self.edge_labels.rows.copy(),
            Rings.join(self.finished),
        )
        return mesh, np.concatenate(self.finished_parents)

    def round(self) -> None:
        """Cut every active cell once, and set aside the parts that nothing crosses any more."""
        rings = self.active
        # The lowest pending function, so that the two cells beside an edge agree without asking
        # each other; `refine` gives the units in random order, so that the depth of the cuts stays
        # logarithmic.
        column = _lowest(self.pending)
        sign = self._signs(rings, column)
        # an edge is cut only where its ends lie strictly on both sides: a zero is a corner already
        crossed = np.nonzero(sign * sign[rings.following] < 0)[0]
        rings = self._cut_edges(rings, rings.edges[crossed], column[rings.owner[crossed]])
        self._retire(*self._divide(rings, column))

    def _signs(self, rings: Rings, column: Ints) -> NDArray[np.int8]:
        """(R,), the sign at each corner of the function chosen for its cell."""
        column = column[rings.owner]
        value, tolerance = self.values.rows[rings.vertices, column], self.tolerance[column]
        return (value > tolerance).astype(np.int8) - (value < -tolerance)

    def _retire(self, rings: Rings, parents: Ints) -> None:
        """Keep as active the cells that some function still crosses."""
        corners = self.signs.rows[rings.vertices]
        either: Bits = np.bitwise_or.reduceat(corners, rings.start[:-1], axis=0)
        # A function crosses a convex cell exactly where it is positive at one corner and negative
        # at another; both sides are OR-ed over the corners, bit by bit for all functions at once.
        pending = either[:, 0] & either[:, 1]
        crossed = pending.any(axis=1)
        done = np.nonzero(~crossed)[0]
        if len(done):
            self.finished.append(rings.take(done))
            self.finished_parents.append(parents[done])
            self.num_finished += len(done)
        active = np.nonzero(crossed)[0]
        self.active, self.parents = rings.take(active), parents[active]
        self.pending = pending[active]

    def _cut_edges(self, rings: Rings, edge: Ints, column: Ints) -> Rings:
        """Put a vertex on every edge asked for, and into the cells on both sides.

        Both cells beside an edge are crossed by all functions that cross the edge, and every cell
        takes the first function that crosses it: so where both ask, they ask for the same cut.
        """
        # both cells beside an edge may ask for it: one vertex is made, and both see it
        edge, first = np.unique(edge, return_index=True)
        a, b = self.edges.rows[edge].T
        self._add_vertices(a, b, column[first])
        new_vertex = len(self.vertices) - len(edge) + np.arange(len(edge))
        new_edge = len(self.edges) + np.arange(len(edge))
        self.edge_labels.append(self.edge_labels.rows[edge])
        # Edge (a, b) becomes (a, new) under its old number and (new, b) under a new one.
        self.edges.append(np.stack([new_vertex, b], axis=1))
        self.edges.rows[edge, 1] = new_vertex
        return self._insert(rings, edge, new_vertex, new_edge)

    def _add_vertices(self, a: Ints, b: Ints, column: Ints) -> None:
        """Add the zero of each function between the vertices a and b."""
        low, high = self.values.rows[a, column], self.values.rows[b, column]
        # Linear interpolation: low and high have opposite signs, so 0 < t < 1 and no digits cancel.
        t = low / (low - high)
        values = between(self.values.rows, a, b, t)
        # exactly zero, and not what rounding left: signs decide, and here the function vanishes
        values[np.arange(len(values)), column] = 0
        self.vertices.append(between(self.vertices.rows, a, b, t))
        self.signs.append(pack(values > self.tolerance, values < -self.tolerance))
        self.values.append(values)

    def _insert(self, rings: Rings, edge: Ints, new_vertex: Ints, new_edge: Ints) -> Rings:
        """The outlines with a new vertex on each ``edge``, where its second half now begins."""
        # Corner i owns the edge to corner i + 1; a cut edge makes its corner two, at i and i + 1.
        place_of = np.full(len(self.edges), -1)
        place_of[edge] = np.arange(len(edge))
        cut = place_of[rings.edges] >= 0
        hit = np.nonzero(cut)[0]
        which = place_of[rings.edges[hit]]
        corner = np.repeat(np.arange(len(cut)), 1 + cut)
        vertices, edges = rings.vertices[corner], rings.edges[corner]
        at = hit + np.arange(len(hit))
        vertices[at + 1] = new_vertex[which]
        # Walking along the edge its second half comes after the new vertex, against it before.
        forward = self.edges.rows[rings.edges[hit], 0] == rings.vertices[hit]
        edges[at + forward] = new_edge[which]
        return Rings(starts(1 + cut)[rings.start], vertices, edges)

    def _divide(self, rings: Rings, column: Ints) -> tuple[Rings, Ints]:
        """Cut each cell along the chord between the two zeros of its function."""
        # After `_cut_edges` the chosen function is zero at two corners of each cell, where its
        # chord begins and ends, unless rounding or a line along an edge has made it another number.
        zero = np.nonzero(self._signs(rings, column) == 0)[0]
        zeros_before = np.searchsorted(zero, rings.start)
        number = np.diff(zeros_before)
        # the minimum guards cells without zeros: what it reads there is replaced below
        first = zero[np.minimum(zeros_before[:-1], len(zero) - 1)]
        second = zero[np.minimum(zeros_before[:-1] + 1, len(zero) - 1)]
        whole = []
        for face in np.nonzero(number != 2)[0]:
            chord = self._settle(rings, int(face), int(column[face]))
            if chord is None:
                whole.append(face)
            else:
                first[face], second[face] = chord
        cut = np.delete(np.arange(len(rings)), whole)
        p, q = first[cut], second[cut]
        chord_edge = len(self.edges) + np.arange(len(cut))
        self.edges.append(np.stack([rings.vertices[q], rings.vertices[p]], axis=1))
        self.edge_labels.append(self.column_labels[column[cut]])
        # The outline p ... q closes into one part and q ... p, around the end, into the other: the
        # corners p and q belong to both, so lengths add up to the old one plus two.
        near = q - p + 1
        far = rings.lengths[cut] - near + 2
        outer = runs(q, far)
        begin, end = rings.start[cut], rings.start[cut + 1]
        wrapped = outer >= np.repeat(end, far)
        outer -= wrapped * np.repeat(end - begin, far)
        corner = np.concatenate([runs(p, near), outer])
        lengths = np.concatenate([near, far])
        edges = rings.edges[corner]
        # the last edge of each part, from its last corner back to its first, is the chord
        edges[starts(lengths)[1:] - 1] = np.concatenate([chord_edge, chord_edge])
        parts = Rings(starts(lengths), rings.vertices[corner], edges)
        parents = np.concatenate([self.parents[cut], self.parents[cut]])
        if whole:
            left = np.array(whole)
            parts = Rings.join([parts, rings.take(left)])
            parents = np.concatenate([parents, self.parents[left]])
        return parts, parents

    def _settle(self, rings: Rings, face: int, column: int) -> tuple[int, int] | None:
        """Where to cut a cell whose function vanishes at more than two corners.

        On a convex cell an affine function is positive along one run of corners and negative along
        another. Where rounding makes it more, the smaller runs are set to zero for good and the
        cell waits for the next round.
        """
        span = np.arange(rings.start[face], rings.start[face + 1])
        value = self.values.rows[rings.vertices[span], column]
        sign = np.where(np.abs(value) > self.tolerance[column], np.sign(value), 0)
        corners = np.nonzero(sign)[0]
        # changes of sign along the outline, zeros skipped: two on a convex cell in exact arithmetic
        changes = np.nonzero(sign[corners] != sign[np.roll(corners, -1)])[0]
        if not len(changes):  # a neighbor that came before has set the last of one sign to zero
            return None
        if len(changes) == 2:
            one, other = (int(span[(corners[i] + 1) % len(span)]) for i in changes)
            return min(one, other), max(one, other)
        # Runs of one sign, the last joined to the first around the end. Of each sign the run with
        # the largest magnitude is real, all others are rounding and become zeros.
        group = np.searchsorted(changes, np.arange(len(corners))) % len(changes)
        size = np.zeros(len(changes))
        np.maximum.at(size, group, np.abs(value[corners]))
        signs = np.array([sign[corners[i]] for i in changes])
        best = [np.argmax(np.where(signs == s, size, -1)) for s in (1, -1)]
        minor = rings.vertices[span[corners[~np.isin(group, best)]]]
        self.values.rows[minor, column] = 0
        # the bits follow the values, or the cell would stay pending for ever
        self.signs.rows[minor, :, column // 64] &= ~(np.uint64(1) << np.uint64(column % 64))
        return None
