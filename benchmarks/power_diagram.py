"""A picture of centroids and radii: docs/images/power-diagram.png.

Run it: python benchmarks/power_diagram.py. The cells of one ReLU layer are a power diagram
(GrokAlign, section 3; Balestriero et al. 2019): x is in the cell whose power distance
|x - mu|^2 - rad is least. On a slice it is one with the centroids' projections, and the squared
distance of a centroid from the slice comes off its radius. Drawn are the cells, from
``linear_regions``, and the circles, from ``centroids`` and ``radii``; that every point of a grid is
in the cell with the least power distance is checked first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection
from torch import Tensor, nn

import grokscope as gs

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "power-diagram.png"
UNITS, SCALE, HALF_WIDTH = 3, 0.6, 3.0
GRID = 121


def layer(num_features: int, seed: int) -> nn.Module:
    """A random layer whose centroids lie within the picture."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(num_features, UNITS, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(SCALE * torch.randn(linear.weight.shape, generator=generator))
        linear.bias.copy_(SCALE * torch.randn(UNITS, generator=generator))
    return nn.Sequential(linear, nn.ReLU())


def on_slice(model: nn.Module, regions: gs.LinearRegions) -> tuple[Tensor, Tensor]:
    """The centers (F, 2) and the radii (F,) of the diagram that a slice cuts out."""
    plane = regions.slice
    x = plane.points(regions.interior_points)
    centers = plane.coordinates(gs.centroids(model, x))
    off = (gs.centroids(model, x) - plane.points(centers)).square().sum(1)
    return centers, gs.radii(model, x) - off


def check(regions: gs.LinearRegions, centers: Tensor, radii: Tensor) -> None:
    """Stop where a point is not in the cell whose power distance is least."""
    side = torch.linspace(-HALF_WIDTH, HALF_WIDTH, GRID, dtype=torch.float64)[1:-1]
    points = torch.cartesian_prod(side, side)
    powers = (points[:, None] - centers).square().sum(2) - radii
    own = powers.gather(1, regions.locate(points)[:, None])[:, 0]
    excess = float((own - powers.amin(1)).max())
    if excess > 1e-9:
        raise SystemExit(f"a point's own cell is {excess} farther than the nearest")


def draw(axes: Any, regions: gs.LinearRegions, centers: Tensor, radii: Tensor, title: str) -> None:
    """The cells in pale colors, each with the circle of its centroid in the same color."""
    colors = plt.get_cmap("tab20")(np.arange(len(regions)) % 20)
    outlines = [outline.numpy() for outline in regions.polygons]
    axes.add_collection(
        PolyCollection(outlines, facecolors=colors, alpha=0.35, edgecolors="black", linewidths=0.8)
    )
    for center, radius, color in zip(centers.numpy(), radii.tolist(), colors, strict=True):
        axes.plot(*center, "o", color=color, markeredgecolor="black", markersize=5)
        if radius > 0:
            axes.add_patch(plt.Circle(center, radius**0.5, fill=False, color=color, linewidth=1.4))
    axes.set(xlim=(-HALF_WIDTH, HALF_WIDTH), ylim=(-HALF_WIDTH, HALF_WIDTH), aspect="equal")
    axes.set(title=title, xticks=[], yticks=[])


def main() -> None:
    """Check and draw a layer of two inputs, and one of eight on a slice."""
    figure, places = plt.subplots(1, 2, figsize=(10, 5.2), layout="constrained")
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64, generator=generator)).Q.T
    spaces = (
        (layer(2, 9), gs.Slice(torch.zeros(2), torch.eye(2), HALF_WIDTH), "two inputs"),
        (layer(8, 28), gs.Slice(torch.zeros(8), basis, HALF_WIDTH), "a slice of eight inputs"),
    )
    for axes, (model, plane, title) in zip(places, spaces, strict=True):
        regions = gs.linear_regions(model, plane)
        centers, radii = on_slice(model, regions)
        check(regions, centers, radii)
        imaginary = int((radii <= 0).sum())
        note = f"{len(regions)} cells, {imaginary} of negative radius"
        draw(axes, regions, centers, radii, f"{title}: {note}")
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
