"""The trace of kernels of more outputs than features, against the diagonal of the full kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.ntk.capture import Source
from grokscope.measures.ntk.directions import readout_of
from grokscope.measures.ntk.inspect import inspected
from tests.measures.ntk.models import Tokens

# whether the last linear map is found, and whether the outputs depend on its features alone
WAYS = {
    "plain": (True, True),
    "scaled": (True, True),
    "softmax": (False, False),
    "a gain": (False, False),
    "a skip": (True, False),
}


class Wide(nn.Module):
    """Nine outputs that come from three features, as they are or in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.enter, self.leave = nn.Linear(4, 3), nn.Linear(3, 9)
        self.gain = nn.Parameter(torch.randn(9))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.leave(self.enter(x).tanh())
        if self.way == "scaled":
            return 0.3 * outputs
        if self.way == "softmax":
            return outputs.softmax(1)
        if self.way == "a gain":
            return outputs * self.gain
        return outputs + self.gain * x.sum(1, keepdim=True) if self.way == "a skip" else outputs


def trace_of(full: Tensor) -> Tensor:
    return full.diagonal(dim1=2, dim2=3).mean(2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", [None, ["leave.weight"], ["leave.bias", "enter.weight"]])
def test_it_is_that_of_the_full_kernel(way: str, names: list[str] | None) -> None:
    torch.manual_seed(0)
    model, x = Wide(way).double(), torch.randn(7, 4, dtype=torch.float64)
    expected = trace_of(gs.empirical_ntk(model, x, x[:3], parameters=names))
    for chunk_size in (None, 2):
        trace = gs.empirical_ntk(model, x, x[:3], "trace", chunk_size, parameters=names)
        assert_close(trace, expected)
    same = gs.empirical_ntk(model, x, reduce="trace", parameters=names)
    assert torch.equal(same, same.T)
    assert_close(same[:, :3], expected)


@pytest.mark.parametrize("way", WAYS)
def test_it_takes_a_direction_for_each_feature_where_that_is_enough(way: str) -> None:
    torch.manual_seed(0)
    model, x = Wide(way).double(), torch.randn(7, 4, dtype=torch.float64)
    chosen = dict(model.named_parameters())
    found = inspected(model, x, chosen)
    readout = readout_of(found)
    is_found, is_enough = WAYS[way]
    assert (readout is not None) == is_found
    if readout is not None:
        assert readout.basis.shape == (3, 9)
        features = readout.features(Source(found, x, found.company), 7)
        assert (features is not None) == is_enough


def test_a_table_that_is_read_at_both_ends() -> None:
    torch.manual_seed(0)
    model, x = Tokens(tie=True).double(), torch.randint(7, (6, 4))
    found = inspected(model, x, dict(model.named_parameters()))
    assert readout_of(found) is not None
    expected = trace_of(gs.empirical_ntk(model, x))
    assert_close(gs.empirical_ntk(model, x, reduce="trace"), expected)
