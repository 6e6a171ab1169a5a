"""Which entries a pooling window has."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from grokscope.measures.regions.operations import module_kinks, window_members

SETTINGS = [
    nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    for kernel, stride, padding, dilation, ceil in itertools.product(
        (2, (3, 2)), (None, (2, 3)), (0, 1), (1, 2), (False, True)
    )
]


@pytest.mark.parametrize(
    "pool", [*SETTINGS, *(nn.AdaptiveMaxPool2d(s) for s in (1, (2, 5), (None, 3)))]
)
def test_windows_hold_what_torch_pools(pool: nn.Module) -> None:
    x = torch.randn(2, 7, 6)
    window = module_kinks(pool)
    members = window_members(window, x.shape)
    entries = x.flatten()[members].masked_fill(members < 0, -torch.inf)
    assert torch.equal(entries.amax(1), pool(x[None]).flatten())


@pytest.mark.parametrize("pool", [nn.MaxPool1d(3, 2, 1, ceil_mode=True), nn.AdaptiveMaxPool1d(4)])
def test_windows_in_one_dimension(pool: nn.Module) -> None:
    x = torch.randn(3, 10)
    members = window_members(module_kinks(pool), x.shape)
    entries = x.flatten()[members].masked_fill(members < 0, -torch.inf)
    assert torch.equal(entries.amax(1), pool(x[None]).flatten())
