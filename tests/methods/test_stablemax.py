"""StableMax cross-entropy against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import grokscope as gs
from tests.reference.methods import stablemax_loss

LABELS = [0, 3, 2, 4, 1, 0]


def logits(scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return (scale * torch.randn(6, 5, generator=generator)).double()


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e6])
def test_it_is_the_definition(scale: float) -> None:
    z = logits(scale)
    found = gs.stablemax_cross_entropy(z, torch.tensor(LABELS)).item()
    assert found == pytest.approx(stablemax_loss(z, LABELS), rel=1e-12)


def test_gradients() -> None:
    z = logits(2.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: gs.stablemax_cross_entropy(z, torch.tensor(LABELS), label_smoothing=0.1), z
    )
    at_zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    gs.stablemax_cross_entropy(at_zero, torch.tensor([1])).backward()
    # s(0) = 1 and s'(0) = 1 on both sides: the gradient of softmax cross-entropy at 0
    assert_close(at_zero.grad, torch.tensor([[1 / 3, -2 / 3, 1 / 3]], dtype=torch.float64))


def test_fitted_examples_keep_a_gradient_where_softmax_has_lost_it() -> None:
    z = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    assert F.cross_entropy(z, y) == 0
    loss = gs.stablemax_cross_entropy(z, y)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss > 0.009
    assert (gradient != 0).all()
    large = torch.tensor([[1e30, -1e30]], requires_grad=True)
    (gradient,) = torch.autograd.grad(gs.stablemax_cross_entropy(large, y), large)
    assert gradient.isfinite().all()


def test_probabilities_of_classes_serve_as_targets() -> None:
    z, y = logits(3.0), torch.tensor(LABELS)
    one_hot = F.one_hot(y, 5).double()
    assert_close(gs.stablemax_cross_entropy(z, one_hot), gs.stablemax_cross_entropy(z, y))
