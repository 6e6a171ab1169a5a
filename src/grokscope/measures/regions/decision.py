"""The decision boundary: where the largest output changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokscope.measures.regions.kinks import BreakpointFunctions, KinkFunctions, WindowFunctions
from grokscope.measures.regions.mesh import Floats, Ints, Mesh
from grokscope.measures.regions.network import Network, tolerance
from grokscope.measures.regions.refine import refine
from grokscope.shown import shown


@shown()
@dataclass(frozen=True, repr=False)
class DecisionBoundary:
    """The straight pieces of the decision boundary on a slice.

    Attributes:
        segments: (s, 2, 2), the ends of each piece in slice coordinates.
        classes: (s, 2), the class to the left of each piece, seen from its first end, and the
            class to its right. A scalar output has class 0 where negative and 1 where positive.
        cells: (s,), the linear region that each piece lies in (one of the two, where the piece
            runs along the edge between them).
    """

    segments: Float[Tensor, "s 2 2"]
    classes: Int[Tensor, "s 2"]
    cells: Int[Tensor, " s"]

    def __len__(self) -> int:
        return len(self.segments)


def decision_boundary(network: Network, mesh: Mesh) -> DecisionBoundary:
    """Split the cells where the largest output changes, and keep what parts two classes."""
    near = _undecided(network, mesh)
    if not len(near):
        nothing = np.zeros((0, 2), dtype=np.int64)
        return DecisionBoundary(
            torch.from_numpy(np.zeros((0, 2, 2))),
            torch.from_numpy(nothing),
            torch.from_numpy(nothing[:, 0]),
        )
    layer = network.output_layer(_decision(network.num_outputs))
    finer, parents = refine(mesh.part(near), network, layer, len(network.layers))
    faces = finer.edge_faces
    predicted = classes_at(network, finer.centers)
    inner = np.nonzero((faces >= 0).all(axis=1))[0]
    edges = inner[predicted[faces[inner, 0]] != predicted[faces[inner, 1]]]
    return DecisionBoundary(
        torch.from_numpy(finer.vertices[finer.edges[edges]]),
        torch.from_numpy(predicted[faces[edges]]),
        torch.from_numpy(near[parents[faces[edges, 0]]]),
    )


def _undecided(network: Network, mesh: Mesh) -> Ints:
    """The cells at whose corners no one class is ahead: all that the boundary can touch."""
    layer = network.output_layer(_decision(network.num_outputs))
    inputs = list(network.layer_inputs(layer, mesh.vertices))
    outputs, rounding = torch.cat(inputs).numpy(force=True), tolerance(network.scale(layer)).max()
    if network.num_outputs == 1:
        outputs = np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    second, first = np.partition(outputs, -2, axis=1)[:, -2:].T
    leader = np.where(first - second > rounding, outputs.argmax(axis=1), -1)
    corner = leader[mesh.rings.vertices]
    low = np.minimum.reduceat(corner, mesh.rings.start[:-1])
    high = np.maximum.reduceat(corner, mesh.rings.start[:-1])
    return np.nonzero((low < 0) | (low != high))[0]


def classes_at(network: Network, points: Floats) -> Ints:
    """(n,), the class at each of the slice coordinates (n, 2)."""
    layer = network.output_layer(_decision(network.num_outputs))
    return network.pattern(layer, points)[:, 0].long().numpy(force=True)


def _decision(num_outputs: int) -> KinkFunctions:
    if num_outputs == 1:
        return BreakpointFunctions((0.0,), 1)
    return WindowFunctions(torch.arange(num_outputs, device="cpu")[None])
