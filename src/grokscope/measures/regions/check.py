"""Hold the regions against the model they were found for."""

from __future__ import annotations

import numpy as np
import torch

from grokscope.measures.inputs import check_outputs
from grokscope.measures.regions.bends import KinkColumns
from grokscope.measures.regions.mesh import Mesh
from grokscope.measures.regions.network import Network

_NUM_CELLS = 64
_NUM_CORNERS = 3
_TOLERANCE = 1e-9


@torch.no_grad()
def check_against_model(network: Network, mesh: Mesh) -> None:
    """Raise unless the model, run as it is and not as traced, is affine on a sample of the cells.

    In each sampled cell, three points half way from the center to corners and their mean: the
    user's own module (its float64 copy) must return there what the traced one does, and at the
    mean the mean of the other three.
    """
    cells = np.unique(np.linspace(0, mesh.num_faces - 1, _NUM_CELLS).astype(np.int64))
    start, lengths = mesh.rings.start[cells], mesh.rings.lengths[cells]
    corners = [start + i * lengths // _NUM_CORNERS for i in range(_NUM_CORNERS)]
    points = (mesh.centers[cells] + mesh.vertices[mesh.rings.vertices[corners]]) / 2
    points = np.concatenate([points, points.mean(axis=0, keepdims=True)])
    coordinates = torch.from_numpy(points.reshape(-1, 2)).to(network.device)
    expected = check_outputs(network.module(network.inputs(coordinates)), len(coordinates))
    # In other batches than the module's, in case its outputs depend on their company.
    alone = [network.outputs(part) for part in coordinates.split(len(cells))]
    traced = (torch.cat(alone) - expected).abs().amax(1)
    expected = expected.reshape(_NUM_CORNERS + 1, len(cells), -1)
    bent = (expected[:-1].mean(0) - expected[-1]).abs().amax(1)
    wrong = torch.maximum(traced.reshape(_NUM_CORNERS + 1, -1).amax(0), bent)
    bad = int(wrong.argmax())
    # Outputs that are zero by cancellation are compared at the size of their rounding.
    outputs = network.output_layer(KinkColumns((0.0,), network.num_outputs))
    rounding = float(network.values(outputs, points[-1])[1].max())
    if not float(wrong[bad]) <= max(_TOLERANCE * float(expected.abs().max()), rounding):
        raise RuntimeError(
            f"the regions disagree with the model by {float(wrong[bad]):.1e} near slice "
            f"coordinates {points[-1, bad].tolist()}: does its output depend on the rest of the "
            "batch, on chance, or on a tensor that an in-place operation has overwritten?"
        )
