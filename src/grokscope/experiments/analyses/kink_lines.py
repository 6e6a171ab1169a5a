"""The lines along which units have their kinks, from the edges of linear regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from grokscope.measures.regions import LinearRegions


Floats = NDArray[np.float64]


def kink_lines(regions: LinearRegions, tolerance: float) -> tuple[Tensor, Tensor]:
    """The zero set of each unit as polylines, for drawing: a few thousand corners for all edges.

    The edges of a partition are cut wherever two lines cross, which a picture does not show. Those
    of one unit are joined end to end, and a corner is left out where the polyline without it is
    nowhere further than ``tolerance`` from where it was (Douglas & Peucker 1973).

    Args:
        regions: the linear regions.
        tolerance: in slice coordinates.

    Returns:
        The corners (m, 2) of all polylines, end to end, and where each of them begins (L + 1,).
    """
    vertices = regions.vertices.numpy()
    made = regions.edge_layer >= 0
    label = torch.stack([regions.edge_layer, regions.edge_neuron, regions.edge_kink], dim=1)
    _, unit = torch.unique(label[made], dim=0, return_inverse=True)
    edges = regions.edges[made][unit.argsort(stable=True)].tolist()
    lines, first = [], 0
    for count in torch.bincount(unit).tolist():
        found = chains(edges[first : first + count])
        lines += [simplified(vertices[chain], tolerance) for chain in found]
        first += count
    corners = np.concatenate([np.zeros((0, 2)), *lines])
    start = np.cumsum([0, *map(len, lines)])
    return torch.from_numpy(corners), torch.from_numpy(start)


def chains(edges: Iterable[Sequence[int]]) -> list[list[int]]:
    """Edges joined end to end: the vertices along each chain, the first again at a closed end.

    Example:
        >>> chains([(3, 1), (7, 8), (1, 2), (8, 9), (9, 7)])
        [[3, 1, 2], [7, 9, 8, 7]]
    """
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    ends = [vertex for vertex, near in neighbours.items() if len(near) != 2]
    found = []
    for vertex in [*ends, *neighbours]:  # what has no end is closed: it begins anywhere
        while neighbours[vertex]:
            chain = [vertex]
            while near := neighbours[chain[-1]]:
                following = near.pop()
                neighbours[following].remove(chain[-1])
                chain.append(following)
            found.append(chain)
    return found


def simplified(points: Floats, tolerance: float) -> Floats:
    """The corners of a polyline (m, 2) that are needed to stay within ``tolerance`` of it.

    Example:
        >>> simplified(np.array([[0.0, 0.0], [1.0, 0.1], [2.0, 0.0], [3.0, 3.0]]), 0.2).tolist()
        [[0.0, 0.0], [2.0, 0.0], [3.0, 3.0]]
    """
    needed = np.zeros(len(points), dtype=bool)
    needed[[0, -1]] = True
    spans = [(0, len(points) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        offset = points[first + 1 : last] - points[first]
        along = points[last] - points[first]
        # Distances to the chord, not to its line: a closed polyline has a chord of no length.
        square = float(along @ along)
        share = np.clip(offset @ along / square, 0, 1) if square > 0 else np.zeros(len(offset))
        distance = np.hypot(*(offset - share[:, None] * along).T)
        furthest = int(distance.argmax())
        if distance[furthest] > tolerance:
            middle = first + 1 + furthest
            needed[middle] = True
            spans += [(first, middle), (middle, last)]
    return points[needed]
