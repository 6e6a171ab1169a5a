"""Gradients of a graph with zeros for what has no part in it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from grokscope.measures.gradients import gradients_or_zeros


def test_what_has_no_part_gets_zeros_that_require_no_gradients() -> None:
    used = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    unused = torch.ones(4, 2, dtype=torch.float32, requires_grad=True)
    first, second = gradients_or_zeros(used.square().sum(), [used, unused])
    assert_close(first, 2 * used.detach())
    assert_close(second, torch.zeros(4, 2))
    assert not first.requires_grad
    assert not second.requires_grad


def test_several_outputs_with_cotangents_and_a_graph_that_is_kept() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    outputs = [x**2, 3 * x[:1]]
    cotangents = [torch.tensor([1.0, 10.0]), torch.tensor([100.0])]
    for keep in (True, False):
        (found,) = gradients_or_zeros(outputs, [x], cotangents, retain_graph=keep)
        assert_close(found, torch.tensor([302.0, 40.0]))
    with pytest.raises(RuntimeError, match="second time"):
        gradients_or_zeros(outputs, [x], cotangents)
