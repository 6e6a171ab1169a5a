"""Kink lines: all edges of a partition, joined and simplified."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import grokscope as gs
from grokscope.experiments.analyses.kink_lines import chains, kink_lines, simplified


@pytest.fixture(scope="module")
def regions() -> gs.LinearRegions:
    model = gs.MLP(5, [17, 11], 4, seed=3)
    plane = gs.Slice.random(torch.zeros(5), 3.0, torch.Generator().manual_seed(1))
    return gs.linear_regions(model, plane)


def paths(lines: torch.Tensor, start: torch.Tensor) -> list[np.ndarray]:
    ends = start.tolist()
    return [lines[a:b].numpy() for a, b in pairwise(ends)]


def distance_to_path(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """(n,), the distance of each point to the nearest of a path's segments, one by one."""
    found = np.full(len(points), np.inf)
    for a, b in pairwise(path):
        along = b - a
        share = np.clip((points - a) @ along / max(along @ along, 1e-300), 0, 1)
        found = np.minimum(found, np.linalg.norm(points - a - share[:, None] * along, axis=1))
    return found


def test_without_tolerance_lines_have_every_kink_and_nothing_else(regions) -> None:
    lines, start = kink_lines(regions, 0.0)
    inner = regions.edges[regions.edge_layer >= 0]
    ends = regions.vertices[inner]
    total = (ends[:, 1] - ends[:, 0]).norm(dim=1).sum()
    length = sum(
        np.linalg.norm(np.diff(path, axis=0), axis=1).sum() for path in paths(lines, start)
    )
    assert length == pytest.approx(float(total), rel=1e-12)
    assert len(start) - 1 < len(inner) / 5


@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_no_edge_is_further_from_its_line_than_the_tolerance(regions, tolerance: float) -> None:
    lines, start = kink_lines(regions, tolerance)
    exact, _ = kink_lines(regions, 0.0)
    nearest = np.full(len(exact), np.inf)
    for path in paths(lines, start):
        nearest = np.minimum(nearest, distance_to_path(exact.numpy(), path))
    assert nearest.max() <= tolerance
    assert len(lines) < len(exact) / 2
    # Every corner that is left is one of the partition's vertices.
    apart = (lines[:, None] - regions.vertices).norm(dim=2).min(dim=1).values
    assert float(apart.max()) < 1e-12


def test_a_network_without_kinks_has_no_lines() -> None:
    model = torch.nn.Linear(3, 2)
    plane = gs.Slice(torch.zeros(3), torch.eye(3)[:2])
    lines, start = kink_lines(gs.linear_regions(model, plane), 0.1)
    assert lines.shape == (0, 2)
    assert start.tolist() == [0]


def test_chains_use_every_edge_once_where_lines_fork() -> None:
    edges = [(0, 1), (1, 2), (1, 3), (5, 6), (6, 7), (7, 5)]
    found = chains(edges)
    used = sorted(tuple(sorted(pair)) for c in found for pair in pairwise(c))
    assert used == sorted(tuple(sorted(edge)) for edge in edges)


def test_a_closed_line_keeps_its_shape() -> None:
    angle = np.linspace(0, 2 * np.pi, 101)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    circle[-1] = circle[0]
    rough = simplified(circle, 0.05)
    assert 5 < len(rough) < 30
    assert (rough[0] == rough[-1]).all()
    assert distance_to_path(circle, rough).max() <= 0.05
