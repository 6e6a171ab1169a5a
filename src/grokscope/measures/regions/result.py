"""What ``linear_regions`` returns."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokscope.measures.regions import locate
from grokscope.measures.regions.decision import DecisionBoundary, classes_at, decision_boundary
from grokscope.measures.regions.joining import MergedRegions, merged_regions
from grokscope.measures.regions.locate import CellGrid
from grokscope.measures.regions.mesh import Floats, Ints, Mesh, Polygons
from grokscope.measures.regions.network import Network
from grokscope.measures.regions.slice import Slice
from grokscope.shown import shown


@shown()
class AffineMaps(NamedTuple):
    """Outputs are ``A x + b``: A (n, k, *d) and b (n, k)."""

    A: Tensor
    b: Tensor


@shown()
class LinearRegions:
    """The cells into which a network cuts a slice of input space.

    ``len()`` counts activation cells: each has its own activation pattern, also where two
    patterns happen to give one affine map (``merged`` counts those once). Everything is float64
    and in slice coordinates unless said otherwise; cells, vertices and edges go by number.

    Attributes:
        slice: the slice.
        layers: the names of the layers with kinks, in order.
        complete: False for the partial result of a run that spent its budget; such a result has
            the cells of the layers in ``counts`` and nothing that depends on later layers.
        counts: the number of cells after each layer, cumulatively.

    Example:
        >>> import torch
        >>> import grokscope as gs
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU())
        >>> regions = gs.linear_regions(model, gs.Slice(torch.zeros(2), torch.eye(2)))
        >>> regions.areas.sum()
        tensor(4., dtype=torch.float64)
        >>> regions.locate(torch.tensor([[0.5, 0.5]])) == regions.locate(torch.tensor([[0.1, 0.1]]))
        tensor([True])
    """

    def __init__(self, network: Network, mesh: Mesh, counts: list[int]) -> None:
        self._network, self._mesh = network, mesh
        self.slice: Slice = network.planes[0]
        self.layers = [layer.name for layer in network.layers]
        self.counts = dict(zip(self.layers, counts, strict=False))
        self.complete = len(counts) == len(self.layers)

    def __len__(self) -> int:
        return self._mesh.num_faces

    def __repr__(self) -> str:
        state = "" if self.complete else f", partial: {len(self.counts)}/{len(self.layers)} layers"
        mesh = self._mesh
        return (
            f"LinearRegions({len(self):,} activation cells, {mesh.num_vertices:,} vertices, "
            f"{len(mesh.edges):,} edges{state})"
        )

    def _shown(self) -> dict[str, Any]:
        mesh = self._mesh
        return {
            "activation cells": len(self),
            "vertices": mesh.num_vertices,
            "edges": len(mesh.edges),
            "layers": ", ".join(f"{name}: {count:,}" for name, count in self.counts.items()),
            "complete": self.complete,
            "slice": self.slice,
        }

    @cached_property
    def polygons(self) -> Polygons:
        """The outline of each cell: item f is (m_f, 2), counter-clockwise."""
        return Polygons(self._mesh)

    @property
    def areas(self) -> Float[Tensor, " F"]:
        """The area of each cell; they add up to the domain's."""
        return torch.from_numpy(self._mesh.areas)

    @property
    def interior_points(self) -> Float[Tensor, "F 2"]:
        """A point inside each cell: the mean of its corners."""
        return torch.from_numpy(self._mesh.centers)

    @property
    def vertices(self) -> Float[Tensor, "V 2"]:
        """The vertices of the partition."""
        return torch.from_numpy(self._mesh.vertices)

    @property
    def edges(self) -> Int[Tensor, "E 2"]:
        """The two vertices of each edge."""
        return torch.from_numpy(self._mesh.edges)

    @property
    def edge_cells(self) -> Int[Tensor, "E 2"]:
        """The cells to the left and to the right of each edge; -1 outside the domain."""
        return torch.from_numpy(self._mesh.edge_faces)

    @property
    def edge_layer(self) -> Int[Tensor, " E"]:
        """The layer that made each edge, as a number into ``layers``; -1 on the domain's frame."""
        return torch.from_numpy(self._mesh.labels[:, 0])

    @property
    def edge_neuron(self) -> Int[Tensor, " E"]:
        """The unit of that layer, numbered as in the flattened output of the layer."""
        return torch.from_numpy(self._mesh.labels[:, 1])

    @property
    def edge_kink(self) -> Int[Tensor, " E"]:
        """Which of the unit's kinks: 0, or 1 for the upper end of a hard tanh."""
        return torch.from_numpy(self._mesh.labels[:, 2])

    @cached_property
    def neighbour_pairs(self) -> Int[Tensor, "m 2"]:
        """The pairs of cells that share an edge, smaller number first, each pair once."""
        faces = self._mesh.edge_faces
        pairs = np.sort(faces[(faces >= 0).all(axis=1)], axis=1)
        return torch.from_numpy(np.unique(pairs, axis=0))

    def neighbours(self, cell: int) -> Int[Tensor, " m"]:
        """The cells that share an edge with ``cell``."""
        if not 0 <= cell < len(self):
            raise IndexError(f"cell must be in 0..{len(self) - 1}: got {cell}")
        pairs = self.neighbour_pairs
        mine = pairs[(pairs == cell).any(1)]
        return mine.sum(1) - cell

    def activation_patterns(
        self, cells: Int[Tensor, " n"] | None = None
    ) -> dict[str, Int[Tensor, "n u"]]:
        """For each layer (n, units), which affine piece each unit is on: 0 or 1 for ReLU.

        A unit with two kinks has pieces 0, 1, 2; a max-pooling window has the place of its
        largest member, the first of equals. Costs one forward pass of n points.
        """
        points = self._points(cells)
        done = self._network.layers[: len(self.counts)]
        return {layer.name: self._network.pattern(layer, points).cpu() for layer in done}

    def affine_maps(
        self, cells: Int[Tensor, " n"] | None = None, chunk_size: int = 1024
    ) -> AffineMaps:
        """The affine map of each cell in input space: A (n, k, *d) and b (n, k), f(x) = A x + b.

        k backward passes; memory n k d, so pass ``cells`` where there are many.
        """
        self._whole()
        parts = list(self._network.input_maps(self._points(cells), chunk_size))
        return AffineMaps(*(torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True)))

    def slice_maps(self, cells: Int[Tensor, " n"] | None = None) -> AffineMaps:
        """The affine map of each cell in slice coordinates: A (n, k, 2) and b (n, k)."""
        self._whole()
        return AffineMaps(*(t.cpu() for t in self._network.slice_maps(self._points(cells))))

    def centroids(
        self, cells: Int[Tensor, " n"] | None = None, chunk_size: int = 4096
    ) -> Float[Tensor, "n ..."]:
        """The centroid of each cell, J^T 1 for the Jacobian J (GrokAlign, Theorem 4).

        One backward pass; ``slice.coordinates`` projects the centroids onto the slice.
        """
        self._whole()
        points = self._points(cells)
        return torch.cat(list(self._network.centroids(points, chunk_size))).cpu()

    def operator_norms(
        self,
        cells: Int[Tensor, " n"] | None = None,
        ord: Literal["fro", "spectral"] = "fro",
        chunk_size: int = 1024,
    ) -> Float[Tensor, " n"]:
        """The norm of each cell's linear operator in input space: Frobenius or largest gain."""
        if ord not in ("fro", "spectral"):
            raise ValueError(f"ord must be 'fro' or 'spectral': got {ord!r}")
        self._whole()
        norms = []
        for jacobian, _ in self._network.input_maps(self._points(cells), chunk_size):
            matrix = jacobian.flatten(2)
            norms.append(torch.linalg.matrix_norm(matrix, "fro" if ord == "fro" else 2).cpu())
        return torch.cat(norms)

    def classes(self, cells: Int[Tensor, " n"] | None = None) -> Int[Tensor, " n"]:
        """The class at each cell's interior point; a cell may hold a piece of the boundary too."""
        self._whole()
        return torch.from_numpy(classes_at(self._network, self._points(cells)))

    def decision_boundary(self) -> DecisionBoundary:
        """Where the largest output changes, exactly, with the classes on both sides."""
        self._whole()
        return self._boundary

    def merged(self, tolerance: float = 1e-9) -> MergedRegions:
        """Count neighboring cells with one affine map (on the slice) once."""
        self._whole()
        return merged_regions(self._network, self._mesh, tolerance)

    def locate(self, points: Float[Tensor, "..."]) -> Int[Tensor, " n"]:
        """The cell of each point (n, 2), -1 outside the domain."""
        return torch.from_numpy(self._grid.locate(_coordinates(points)))

    def distance_to_boundary(self, points: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
        """The distance of each point (n, 2) to the nearest edge between two cells.

        In input-space length, within the slice; NaN outside the domain.
        """
        found = locate.to_nearest_edge(self._mesh, self._grid, _coordinates(points), self._metric)
        return torch.from_numpy(found)

    def distance_to_decision_boundary(self, points: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
        """The distance of each point (n, 2) to the decision boundary in the domain, or infinity."""
        segments = self.decision_boundary().segments.numpy()
        found = locate.to_nearest_segment(_coordinates(points), segments, self._metric)
        return torch.from_numpy(found)

    def local_complexity(
        self,
        points: Float[Tensor, "..."],
        radius: float,
        count: Literal["regions", "neurons"] = "regions",
    ) -> Int[Tensor, " n"]:
        """How many cells, or neurons with a kink there, come within ``radius`` of points (n, 2).

        ``radius`` is an input-space length. Source: Humayun, Balestriero & Baraniuk, "Deep
        networks always grok and here is why" (2024), who estimate the second count.
        """
        if count not in ("regions", "neurons"):
            raise ValueError(f"count must be 'regions' or 'neurons': got {count!r}")
        if not radius > 0:
            raise ValueError(f"radius must be positive: got {radius}")
        found = locate.num_within(
            self._mesh, self._grid, _coordinates(points), radius, self._metric, count == "neurons"
        )
        return torch.from_numpy(found)

    def boundary_density(self, points: Float[Tensor, "..."], radius: float) -> Float[Tensor, " n"]:
        """The length of boundaries between cells per area, in discs around points (n, 2).

        Exact: the length of all edges inside of the disc of ``radius`` on the slice, over its area,
        in input-space lengths. It compares places, such as the training points and the decision
        boundary, whatever the size of the cells there. NaN where the disc is not in the domain.
        """
        if not radius > 0:
            raise ValueError(f"radius must be positive: got {radius}")
        found = locate.edge_density(
            self._mesh, self._grid, _coordinates(points), radius, self._metric
        )
        return torch.from_numpy(found)

    @cached_property
    def _grid(self) -> CellGrid:
        return CellGrid(self._mesh)

    @cached_property
    def _boundary(self) -> DecisionBoundary:
        return decision_boundary(self._network, self._mesh)

    @cached_property
    def _metric(self) -> Floats:
        return self.slice.metric.numpy(force=True)

    def _points(self, cells: Tensor | None) -> Floats:
        centers = self._mesh.centers
        return centers if cells is None else centers[self._checked(cells)]

    def _checked(self, cells: Tensor) -> Ints:
        index = cells.numpy(force=True)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(
                f"cells must be in 0..{len(self) - 1}: got {index.min()}..{index.max()}"
            )
        return index

    def _whole(self) -> None:
        if not self.complete:
            raise ValueError(
                "these regions are partial (the budget was spent), so the network's outputs are "
                "not affine on them; raise max_regions"
            )


def _coordinates(points: Tensor) -> Floats:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"points must be slice coordinates of shape (n, 2): got {tuple(points.shape)}; "
            "slice.coordinates(x) turns inputs into them"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points hold NaN or infinity")
    return points.detach().double().numpy(force=True)
