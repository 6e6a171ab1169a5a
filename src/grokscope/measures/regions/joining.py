"""Join cells of a mesh: those parted by edges that are no kinks, and those with one affine map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from grokscope.measures.regions.mesh import Ints, Mesh, Rings, components, starts
from grokscope.shown import shown

if TYPE_CHECKING:
    from grokscope.measures.regions.network import Network


def dissolve(mesh: Mesh, removed: NDArray[np.bool_], num_kept_vertices: int) -> tuple[Mesh, Ints]:
    """The mesh without the edges ``removed``; what they parted must be convex once joined.

    A vertex that is left in the middle of a straight edge goes too, unless it is one of the first
    ``num_kept_vertices``.

    Returns:
        the coarser mesh, and for each of its cells one cell of ``mesh`` inside it.
    """
    group = components(mesh.num_faces, mesh.edge_faces[removed])
    member = np.unique(group, return_index=True)[1]
    vertices, edges, owner = _outlines(mesh, removed, group)
    kept = np.nonzero(~removed)[0]
    degree = np.bincount(mesh.edges[kept].ravel(), minlength=mesh.num_vertices)
    # two kept edges of one label meet in a line that went on: the crossing edge is gone
    straight = (degree == 2) & (np.arange(mesh.num_vertices) >= num_kept_vertices)
    straight &= _same_label(mesh, kept)
    corner = ~straight[vertices]
    vertices, edges, owner = vertices[corner], edges[corner], owner[corner]
    return _rebuilt(mesh, vertices, edges, owner), member


def _outlines(mesh: Mesh, removed: NDArray[np.bool_], group: Ints) -> tuple[Ints, Ints, Ints]:
    """The corners around each group of cells, in order: vertices, edges, groups."""
    rings = mesh.rings
    outer = np.nonzero(~removed[rings.edges])[0]
    owner = group[rings.owner[outer]]
    count = mesh.num_vertices
    # Half-edges that stay, keyed by (group, vertex): a joined cell is convex, so that each vertex
    # begins one of its edges, and the next edge is the one that begins where this one ends.
    begin = owner * count + rings.vertices[outer]
    end = owner * count + rings.vertices[rings.following[outer]]
    order = np.argsort(begin)
    following = order[np.searchsorted(begin, end, sorter=order)]
    # Cut each cycle before its first corner, and find by doubling how far its last one is.
    head = np.unique(owner, return_index=True)[1]
    last = np.isin(following, head)
    following[last] = np.nonzero(last)[0]
    ahead = (~last).astype(np.int64)
    while ahead[following].any():
        ahead += ahead[following]
        following = following[following]
    place = np.lexsort((-ahead, owner))
    return rings.vertices[outer][place], rings.edges[outer][place], owner[place]


def _same_label(mesh: Mesh, kept: Ints) -> NDArray[np.bool_]:
    """(V,), whether all kept edges at a vertex carry one label."""
    number = np.unique(mesh.labels[kept], axis=0, return_inverse=True)[1].ravel()
    low = np.full(mesh.num_vertices, len(number))
    high = np.full(mesh.num_vertices, -1)
    for end in (0, 1):
        np.minimum.at(low, mesh.edges[kept, end], number)
        np.maximum.at(high, mesh.edges[kept, end], number)
    return low == high


def _rebuilt(mesh: Mesh, vertices: Ints, edges: Ints, owner: Ints) -> Mesh:
    """A mesh of the given outlines; ``edges`` are old edges along the new ones."""
    used, vertices = np.unique(vertices, return_inverse=True)
    rings = Rings(starts(np.bincount(owner)), vertices, edges)
    ends = np.stack([vertices, vertices[rings.following]], axis=1)
    # the two cells beside a joined edge name old edges along it, each another: its ends name it
    key = ends.min(axis=1) * len(used) + ends.max(axis=1)
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return Mesh(
        mesh.vertices[used],
        ends[first],
        mesh.labels[edges[first]],
        Rings(rings.start, vertices, number),
    )


@shown()
@dataclass(frozen=True, repr=False)
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
    """Join neighbors whose gradients differ by no more than ``tolerance``, relatively.

    The function is continuous, so equal gradients on both sides of an edge mean equal maps.
    """
    gradient = network.slice_maps(mesh.centers)[0].flatten(1).numpy(force=True)
    faces = mesh.edge_faces
    inner = np.nonzero((faces >= 0).all(axis=1))[0]
    left, right = gradient[faces[inner, 0]], gradient[faces[inner, 1]]
    # relative to the larger gradient of the two, entry by entry at most
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
