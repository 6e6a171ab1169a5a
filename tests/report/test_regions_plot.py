"""Pictures of linear regions: what is drawn."""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch

import grokscope as gs
from grokscope.report.regions_plot import cell_values, plot_regions

mpl.use("Agg")


def regions(seed: int = 0, width: int = 12) -> gs.LinearRegions:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 3),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.normal_()
    return gs.linear_regions(model, gs.Slice(torch.zeros(3), torch.eye(3)[:2], 2.0))


def test_the_values_of_each_coloring() -> None:
    found = regions()
    assert torch.equal(torch.from_numpy(cell_values(found, "norm")[0]), found.operator_norms())
    assert torch.equal(torch.from_numpy(cell_values(found, "class")[0]).long(), found.classes())
    areas = np.log10(found.areas.numpy())
    np.testing.assert_allclose(cell_values(found, "area")[0], np.maximum(areas, areas.max() - 12))
    layer = cell_values(found, "layer")[0]
    assert set(layer) <= {1.0, 2.0}
    cell = int(np.argmax(layer == 1.0))
    mine = (found.edge_cells == cell).any(1)
    assert int(found.edge_layer[mine].max()) == 0
    assert cell_values(found, "none")[0] is None
    own = np.arange(len(found), dtype=float)
    assert np.array_equal(cell_values(found, own)[0], own)
    with pytest.raises(ValueError, match="one number for each"):
        cell_values(found, own[:-1])
    with pytest.raises(ValueError, match="color must be one of norm, class"):
        cell_values(found, "color")


@pytest.mark.parametrize("color", ["norm", "class", "layer", "area", "none"])
def test_matplotlib_draws_every_cell_and_edge(color: str) -> None:
    from matplotlib import pyplot

    found = regions()
    ax = plot_regions(
        found,
        color=color,
        points=torch.zeros(2, 2),
        point_classes=None if color == "none" else [0, 1],
        centroids=[[1.0, 1.0]],
    )
    sizes = [len(collection.get_paths()) for collection in ax.collections]
    expected = [len(found.edges), len(found.decision_boundary())]
    if color != "none":
        expected.insert(0, len(found))
        fill = ax.collections[0]
        np.testing.assert_allclose(fill.get_array(), cell_values(found, color)[0])
        first = fill.get_paths()[0].vertices[:-1]
        np.testing.assert_allclose(first, found.polygons[0])
    assert sizes[: len(expected)] == expected
    assert len(ax.collections) == len(expected) + 2
    ax.figure.canvas.draw()
    pyplot.close(ax.figure)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.collections", None)
    with pytest.raises(ImportError, match=r"grokscope\[figures\]"):
        plot_regions(regions())
