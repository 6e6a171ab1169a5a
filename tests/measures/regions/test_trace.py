"""The float64 copy that a network's regions are found on."""

from __future__ import annotations

import copy

import torch
from torch import nn

from grokscope.measures.regions.trace import float64_copy


def test_the_copy_shares_what_the_model_shares_and_nothing_with_the_model() -> None:
    torch.manual_seed(0)
    first, norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
    second = nn.Linear(3, 3)
    second.weight = first.weight  # tied
    patched = nn.Linear(3, 3)
    patched.forward = lambda x: 2 * x  # type: ignore[method-assign, assignment]
    turned = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    layers = [first, norm, nn.ReLU(), first, second, turned, patched]
    model = nn.Sequential(*layers, nn.Conv2d(1, 1, 2, padding="same")).eval()
    before = copy.deepcopy(model.state_dict())
    twin = float64_copy(model)
    assert twin[0] is twin[3]
    assert twin[0].weight is twin[4].weight
    mine = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in twin.state_dict().values()}
    assert twin[0]._forward_hooks is not first._forward_hooks
    x = torch.randn(4, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(model[:-1]).double()(x)
        torch.testing.assert_close(twin[:-1](x), expected, rtol=1e-12, atol=1e-12)
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
