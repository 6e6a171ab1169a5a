"""The exact partition of a slice of input space by a piecewise-affine network."""

from __future__ import annotations

import time
from collections.abc import Callable

from grokscope.measures.inputs import Model
from grokscope.measures.regions.check import check_against_model
from grokscope.measures.regions.mesh import Mesh
from grokscope.measures.regions.network import Network
from grokscope.measures.regions.refine import refine
from grokscope.measures.regions.result import LinearRegions
from grokscope.measures.regions.slice import Slice

Progress = Callable[[str], object]


class _LimitReached(Exception):
    pass


def linear_regions(
    model: Model,
    slice: Slice,
    *,
    max_regions: int = 1_000_000,
    partial: bool = False,
    progress: Progress | None = None,
) -> LinearRegions:
    """Every linear region of ``model`` on a two-dimensional slice, exactly.

    A region is a cell of one activation pattern: the convex polygon on which every unit that can
    bend stays on one of its affine pieces. The outlines are found layer by layer: each unit's
    zero set is a straight line on every cell so far, and splits the cells it crosses.

    Args:
        model: a feed-forward module that torch.fx can trace, in evaluation mode: Linear,
            convolution, BatchNorm, pooling, ReLU and its kin, hard tanh and sigmoid, residual
            additions, reshaping, in any order, with or without biases. It is not changed: all
            work is done in float64 on a copy, on which forward hooks do not run.
        slice: the plane and the convex domain on it.
        max_regions: the budget.
        partial: whether to return what was found, rather than raise, when the budget is spent:
            the exact partition by the layers that were completed.
        progress: called now and then with a line of text, for instance ``print``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an operation is not piecewise affine (the message names the layer), BatchNorm
            or dropout are in training mode, or the slice does not fit the model.
        RuntimeError: more than ``max_regions`` regions; or the regions disagree with the model,
            which is checked at interior points of up to 64 regions to 1e-9.

    About O(F (m + log F)) for F regions and layers of m units beside one forward pass of F points,
    and for a max-pooling layer as many passes as its windows have members; measured by
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
    """
    if max_regions < 1:
        raise ValueError(f"max_regions must be positive: got {max_regions}")
    network = Network(model, slice)
    report = _Report(network, max_regions, progress)
    mesh = Mesh.polygon(slice.polygon.numpy())
    counts: list[int] = []
    for index, layer in enumerate(network.layers):
        report.layer = index
        try:
            mesh, _ = refine(mesh, network, layer, index, report)
        except _LimitReached:
            if not partial:
                raise RuntimeError(
                    f"more than max_regions={max_regions:,} regions in layer {layer.name!r} "
                    f"({index + 1} of {len(network.layers)}): raise max_regions, shrink the "
                    "slice, or pass partial=True for the partition by the layers before"
                ) from None
            break
        counts.append(mesh.num_faces)
        report.say(mesh.num_faces)
    regions = LinearRegions(network, mesh, counts)
    if regions.complete:
        check_against_model(network, mesh)
    return regions


class _Report:
    """Stops a run that is over its budget, and tells how far it is, at most twice a second."""

    def __init__(self, network: Network, max_regions: int, progress: Progress | None) -> None:
        self._network, self._max_regions, self._progress = network, max_regions, progress
        self._last = time.monotonic()
        self.layer = 0

    def __call__(self, num_faces: int) -> None:
        if num_faces > self._max_regions:
            raise _LimitReached
        if self._progress is not None and time.monotonic() - self._last > 0.5:
            self.say(num_faces)

    def say(self, num_faces: int) -> None:
        if self._progress is None:
            return
        self._last = time.monotonic()
        layers = self._network.layers
        name = layers[self.layer].name
        self._progress(f"layer {self.layer + 1}/{len(layers)} ({name}): {num_faces:,} regions")
