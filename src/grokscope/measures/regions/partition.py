"""The exact partition of slices of input space by a piecewise-affine network.

One planar mesh is split layer by layer. Many slices are one mesh of as many islands, whose vertices
carry the number of their slice as a third coordinate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from grokscope.arguments import checked_arguments
from grokscope.measures.guard import undisturbed
from grokscope.measures.inputs import Model, check_outputs
from grokscope.measures.regions.kinks import BreakpointFunctions
from grokscope.measures.regions.mesh import Ints, Mesh
from grokscope.measures.regions.network import Layer, Network, tolerance
from grokscope.measures.regions.refine import refine
from grokscope.measures.regions.result import LinearRegions
from grokscope.measures.regions.slice import Slice
from grokscope.measures.regions.trace import Graph, trace

Progress = Callable[[str], object]

# The check against the model: cells, corners of each, and how far it may be from affine there.
_NUM_CELLS = 64
_NUM_CORNERS = 3
_TOLERANCE = 1e-9
# The count to come is estimated from this many cells, or pairs of lines, once a run has a 32nd of
# its budget of cells: what is left to do then costs many times what the estimate does.
_SAMPLE = 256
_SAMPLE_PAIRS = 2**15
_SHARE_OF_BUDGET = 32


class _BudgetSpent(Exception):
    pass


@overload
def linear_regions(
    model: Model,
    slice: Slice,
    *,
    max_regions: int = ...,
    partial: bool = ...,
    progress: Progress | None = ...,
) -> LinearRegions: ...
@overload
def linear_regions(
    model: Model,
    slice: Sequence[Slice],
    *,
    max_regions: int = ...,
    partial: bool = ...,
    progress: Progress | None = ...,
) -> list[LinearRegions]: ...
@checked_arguments
def linear_regions(
    model: Model,
    slice: Slice | Sequence[Slice],
    *,
    max_regions: int = 1_000_000,
    partial: bool = False,
    progress: Progress | None = None,
) -> LinearRegions | list[LinearRegions]:
    """Every linear region of ``model`` on a two-dimensional slice, exactly.

    A region is a cell of one activation pattern: the convex polygon on which every unit stays on
    one of its affine pieces. The outlines are found layer by layer: each unit's zero set is a
    straight line on every cell so far, and splits the cells it crosses.

    Args:
        model: a feed-forward module that torch.fx can trace, in evaluation mode: Linear,
            convolution, BatchNorm, pooling, ReLU and its kin, hard tanh and sigmoid, residual
            additions, reshaping, in any order, with or without biases, also compiled or wrapped
            for data parallelism. It is not changed: all work is done in float64 on a copy, on
            which forward hooks do not run.
        slice: the plane and the convex domain on it; or several slices, which are done together
            and cost far less than one after another where they are small. They share one measure
            of what is rounding, so they should be of similar width.
        max_regions: the budget, for all slices together.
        partial: whether to return what was found, rather than raise, when the budget is spent:
            the exact partition by the layers that were completed.
        progress: called now and then with a line of text, for instance ``print``.

    Returns:
        the regions of the slice, or a list with those of each slice.

    Raises:
        TypeError: if ``model`` is not a module.
        ValueError: if an operation is not piecewise affine (the message names the layer), BatchNorm
            or dropout are in training mode, or the slice does not fit the model.
        RuntimeError: for more than ``max_regions`` regions, or certainly more by an estimate from a
            sample, which says what half width would fit; or the regions disagree with the model,
            which is checked at interior points of up to 64 regions to 1e-9.

    About O(F (m + log F)) for F regions and layers of m units that have kinks on the slice, beside
    one forward pass of each layer's vertices through the layers before it; measured by
    ``benchmarks/bench_regions.py``.

    Source: Humayun, Balestriero, Balakrishnan & Baraniuk, "SplineCam" (CVPR 2023), for exact
    regions on a slice; the splitting of all cells at once is ours.

    Example:
        >>> import torch
        >>> import grokscope as gs
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.ReLU())
        >>> plane = gs.Slice(torch.zeros(2), torch.eye(2))
        >>> len(gs.linear_regions(model, plane))  # three lines through one point
        6
        >>> small = gs.Slice(torch.tensor([5.0, 5.0]), torch.eye(2), half_width=0.1)
        >>> [len(regions) for regions in gs.linear_regions(model, [plane, small])]
        [6, 1]
    """
    if max_regions < 1:
        raise ValueError(f"max_regions must be positive: got {max_regions}")
    if not isinstance(slice, Slice | list | tuple):
        raise TypeError(f"slice must be a gs.Slice or a list of them: got {type(slice).__name__}")
    planes = [slice] if isinstance(slice, Slice) else list(slice)
    _check_slices(planes)
    # what is kept for later measures of the regions is made where derivatives can be taken of it
    with undisturbed(model), torch.inference_mode(False):
        found = _on_slices(trace(model), planes, max_regions, partial, progress)
    return found[0] if isinstance(slice, Slice) else found


def _on_slices(
    graph: Graph,
    planes: Sequence[Slice],
    max_regions: int,
    partial: bool,
    progress: Progress | None,
) -> list[LinearRegions]:
    network = Network(graph, planes[:1])
    if len(planes) == 1:
        return _regions(network, max_regions, partial, progress)
    # The affine part of the network is held for all slices of a group: as much as a few batches.
    size = 4 * network.batch
    found: list[LinearRegions] = []
    for first in range(0, len(planes), size):
        left = max_regions - sum(map(len, found))
        group = Network(graph, planes[first : first + size])
        found += _regions(group, max(1, left), partial, progress)
    return found


def _check_slices(planes: Sequence[object]) -> None:
    if not planes:
        raise ValueError("slice must be a Slice or a non-empty sequence of them: got an empty one")
    for plane in planes:
        if not isinstance(plane, Slice):
            raise TypeError(
                f"slice must be a grokscope.Slice or a sequence of them: got {type(plane).__name__}"
            )
    shapes = sorted({tuple(p.origin.shape) for p in planes if isinstance(p, Slice)})
    if len(shapes) > 1:
        raise ValueError(f"slices must be of inputs of one shape: got {shapes[0]} and {shapes[1]}")


def _regions(
    network: Network, max_regions: int, partial: bool, progress: Progress | None
) -> list[LinearRegions]:
    """The regions on each of the network's slices."""
    budget = _Budget(network, max_regions, progress)
    mesh = Mesh.polygons([plane.polygon.numpy() for plane in network.planes])
    counts: list[Ints] = []
    for index, layer in enumerate(network.layers):
        budget.layer = index
        if not partial:
            budget.check_ahead(mesh)
        try:
            mesh, _ = refine(mesh, network, layer, index, budget)
        except _BudgetSpent:
            if not partial:
                raise RuntimeError(
                    f"more than max_regions={max_regions:,} regions in layer {layer.name!r} "
                    f"({index + 1} of {len(network.layers)}): raise max_regions, shrink the "
                    "slice, or pass partial=True for the partition by the layers before"
                ) from None
            break
        counts.append(np.bincount(mesh.islands, minlength=len(network.planes)))
        budget.say(mesh.num_faces)
    if len(counts) == len(network.layers):
        _check_against_model(network, mesh)
    if len(network.planes) == 1:
        return [LinearRegions(network.on(0), mesh, [int(count[0]) for count in counts])]
    parts = mesh.split_islands(len(network.planes))
    return [
        LinearRegions(network.on(i), part, [int(count[i]) for count in counts])
        for i, part in enumerate(parts)
    ]


class _Budget:
    """Stops a run that is over its budget or will be, and tells how far it is."""

    def __init__(self, network: Network, max_regions: int, progress: Progress | None) -> None:
        self._network, self._max_regions, self._progress = network, max_regions, progress
        self._last = time.monotonic()
        self._estimated_at = max(1, max_regions // _SHARE_OF_BUDGET, 4 * _SAMPLE)
        self.layer = 0

    def __call__(self, num_faces: int) -> None:
        """Called after each round of cuts."""
        if num_faces > self._max_regions:
            raise _BudgetSpent
        if self._progress is not None and time.monotonic() - self._last > 0.5:
            self.say(num_faces)

    def say(self, num_faces: int) -> None:
        """Tell how many cells there are by now."""
        if self._progress is None:
            return
        self._last = time.monotonic()
        layers = self._network.layers
        name = layers[self.layer].name
        self._progress(f"layer {self.layer + 1}/{len(layers)} ({name}): {num_faces:,} regions")

    def check_ahead(self, mesh: Mesh) -> None:
        """Raise where the layers from here on would certainly spend the budget."""
        network, layer = self._network, self._network.layers[self.layer]
        if mesh.num_faces == 1:
            expected = lines_and_crossings(network, mesh, layer, self._max_regions)
            if expected > 1.1 * self._max_regions:
                raise RuntimeError(self._too_many(expected, f"layer {layer.name!r} alone makes"))
        elif mesh.num_faces >= self._estimated_at:
            # Again only where many more cells have come in the meantime.
            self._estimated_at = 8 * mesh.num_faces
            mean, error = _growth(network, mesh, self.layer, self._max_regions)
            if mesh.num_faces * (mean - 3 * error) > self._max_regions:
                raise RuntimeError(
                    self._too_many(mesh.num_faces * mean, "by a sample of its cells, it has")
                )

    def _too_many(self, expected: float, how: str) -> str:
        # Cells go with the area; four fifths, since they are often denser in the middle.
        factor = (0.8 * self._max_regions / expected) ** 0.5
        width = self._network.planes[0].half_width
        fit = (
            f"half_width={factor * width:.2g} would fit"
            if width is not None and len(self._network.planes) == 1
            else f"slices {factor:.2g} times as wide would fit"
        )
        number = self.layer + 1
        return (
            f"the slice is too wide for max_regions={self._max_regions:,}: {how} about "
            f"{float(f'{expected:.2g}'):,.0f} regions (seen before layer {number} of "
            f"{len(self._network.layers)}); {fit}, or raise max_regions, or pass partial=True for "
            "the partition by the first layers"
        )


def lines_and_crossings(network: Network, mesh: Mesh, layer: Layer, enough: int) -> float:
    """How many cells the lines of a layer cut one convex cell into, about.

    L lines with I crossings inside cut it into 1 + L + I cells. Where that cannot be more than
    ``enough``, or the layer needs several stages, 0 is returned; else the crossings are estimated
    from a sample of pairs.
    """
    kinks = layer.kinks
    if kinks.num_stages > 1 or _most_cells(len(kinks.labels(0))) <= enough:
        return 0.0
    inputs = torch.cat(list(network.layer_inputs(layer, mesh.vertices)))
    values = kinks.values(inputs, 0).numpy(force=True)
    values = values[:, (values > 0).any(axis=0) & (values < 0).any(axis=0)]
    count = values.shape[1]
    if _most_cells(count) <= enough:
        return 0.0
    ones = np.ones((mesh.num_vertices, 1))
    lines = np.linalg.lstsq(np.hstack([mesh.vertices[:, :2], ones]), values, rcond=None)[0].T
    a, b = np.random.default_rng(0).integers(count, size=(2, _SAMPLE_PAIRS))
    # Two lines as vectors (p, q, r), p x + q y + r = 0, meet where their cross product points.
    meet = np.cross(lines[a[a != b]], lines[b[a != b]])
    corner = mesh.vertices[:, :2]
    side = np.roll(corner, -1, axis=0) - corner
    normal = np.stack([-side[:, 1], side[:, 0]])
    depth = meet[:, :2] @ normal - meet[:, 2:] * (corner.T * normal).sum(axis=0)
    inside = (depth * np.sign(meet[:, 2:]) > 0).all(axis=1)
    return float(1 + count + inside.mean() * count * (count - 1) / 2)


def _most_cells(num_lines: int) -> float:
    return 1 + num_lines + num_lines * (num_lines - 1) / 2


def _growth(network: Network, mesh: Mesh, first: int, max_regions: int) -> tuple[float, float]:
    """How many cells the layers from ``first`` on make of one, in the mean, and its error."""
    chosen = np.random.default_rng(0).choice(mesh.num_faces, _SAMPLE, replace=False)
    part, owner = mesh.part(np.sort(chosen)), np.arange(_SAMPLE)

    def stop(num_faces: int) -> None:
        if num_faces > max_regions:
            raise _BudgetSpent

    for index in range(first, len(network.layers)):
        try:
            part, parents = refine(part, network, network.layers[index], index, stop)
        except _BudgetSpent:
            return max_regions / _SAMPLE, 0.0
        owner = owner[parents]
    made = np.bincount(owner, minlength=_SAMPLE)
    return float(made.mean()), float(made.std(ddof=1) / _SAMPLE**0.5)


@torch.no_grad()
def _check_against_model(network: Network, mesh: Mesh) -> None:
    """Raise unless the model, run as it is and not as traced, is affine on a sample of the cells.

    In each sampled cell, three points half way from the center to corners and their mean: the
    traced module must return at the mean the mean of the other three, and at the first what the
    user's own module (its float64 copy) does.
    """
    cells = np.unique(np.linspace(0, mesh.num_faces - 1, _NUM_CELLS).astype(np.int64))
    start, lengths = mesh.rings.start[cells], mesh.rings.lengths[cells]
    corners = [start + i * lengths // _NUM_CORNERS for i in range(_NUM_CORNERS)]
    points = (mesh.centers_of(cells) + mesh.vertices[mesh.rings.vertices[corners]]) / 2
    points = np.concatenate([points, points.mean(axis=0, keepdims=True)])
    flat = torch.from_numpy(points).to(network.device)
    # In another batch than the module's, of other points, in case outputs depend on their company.
    parts = flat.flatten(0, 1).split(max(len(cells), network.batch))
    traced = torch.cat([network.outputs(part) for part in parts]).unflatten(0, flat.shape[:2])
    expected = check_outputs(network.module(network.inputs(flat[0])), len(cells))
    bent = (traced[:-1].mean(0) - traced[-1]).abs().amax(1)
    wrong = torch.maximum((traced[0] - expected).abs().amax(1), bent)
    bad = int(wrong.argmax())
    allowed = _TOLERANCE * float(traced.abs().max())
    if float(wrong[bad]) <= allowed:
        return
    # Outputs that are zero by cancellation are compared at the size of their rounding.
    outputs = network.output_layer(BreakpointFunctions((0.0,), network.num_outputs))
    if not float(wrong[bad]) <= float(tolerance(network.scale(outputs)).max()):
        raise RuntimeError(
            f"the regions disagree with the model by {float(wrong[bad]):.1e} near slice "
            f"coordinates {points[-1, bad].tolist()}: does its output depend on the rest of the "
            "batch, on chance, or on a tensor that an in-place operation has overwritten?"
        )
