"""Which pass the penalty differentiates, on how many examples, and how."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import grokscope as gs
from grokscope.methods.layer_chain import LayerPass
from tests.measures.networks import Residual, cnn_with_batch_norm, relu_mlp, smooth_mlp
from tests.measures.networks import residual as residual_case


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    parameters = list(model.parameters())
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


class Counted(Residual):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_the_trainings_own_pass_is_differentiated() -> None:
    model, x = Counted().double(), torch.randn(5, 7).double()
    expected = gs.jacobian_penalty(model, x, generator=torch.Generator().manual_seed(3))
    expected_gradients = gradients(expected, model)
    grokalign = gs.GrokAlign(weight=1.0, seed=3)
    grokalign.start(model)
    for _ in range(2):
        model.calls = 0
        grokalign.generators[0].manual_seed(3)
        outputs = model(x)
        found = grokalign(model, x)
        assert model.calls == 1
        assert_close(found, expected)
        assert_close(gradients(found + 0 * outputs.sum(), model), expected_gradients)
    assert not x.requires_grad
    grokalign(model, x)  # no pass was kept for it
    assert model.calls == 2
    grokalign.finish()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_kept_pass_of_layers_is_the_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gs.CNN((2, 8, 8), [4, 5], 3, downsample="max", seed=1).double()
    x = torch.randn(6, 2, 8, 8).double()
    expected = gs.jacobian_penalty(model, x, generator=torch.Generator().manual_seed(3))
    double = gs.jacobian_penalty(lambda z: model(z), x, generator=torch.Generator().manual_seed(3))
    assert_close(expected, double)
    penalty_alone = gradients(expected, model)
    assert_close(penalty_alone, gradients(double, model))
    monkeypatch.setattr(LayerPass, "run", None)  # no pass of its own from here on
    grokalign = gs.GrokAlign(weight=1.0, seed=3)
    grokalign.start(model)
    loss = model(x).square().mean()
    found = grokalign(model, x)
    assert_close(found, expected)
    both = gradients(loss + found, model)
    alone = gradients(model(x).square().mean(), model)
    assert_close(both, [a + b for a, b in zip(alone, penalty_alone, strict=True)])


@pytest.mark.parametrize("make", [relu_mlp, residual_case, cnn_with_batch_norm])
def test_some_examples_estimate_the_batch_without_bias(make: Any) -> None:
    model, x = make()
    options = {"projections": None, "squared": False}
    exact = gs.jacobian_penalty(model, x, **options)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            gs.jacobian_penalty(model, x, examples=2, generator=generator, **options).detach()
            for _ in range(150)
        ]
    )
    assert float(draws.std()) > 0
    assert (draws.mean() - exact).abs() < 4 * draws.std() / 150**0.5
    assert_close(gs.jacobian_penalty(model, x, examples=9, **options), exact)


@pytest.mark.parametrize("train", [False, True])
def test_the_difference_on_smooth_networks(train: bool) -> None:
    """With dropout both passes draw the same mask; BatchNorm's statistics see no batch twice."""
    model, x = smooth_mlp()
    assert isinstance(model, nn.Sequential)
    if train:
        layers = [nn.Linear(7, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Tanh(), nn.Linear(9, 3)]
        model = nn.Sequential(*layers).double().train()
    buffers = [buffer.clone() for buffer in model.buffers()]
    found = []
    for estimator in ("derivative", "difference"):
        torch.manual_seed(8)
        generator = torch.Generator().manual_seed(3)
        penalty = gs.jacobian_penalty(model, x, estimator=estimator, generator=generator)
        found.append((penalty, *gradients(penalty, model)))
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    for before, after in zip(buffers, model.buffers(), strict=True):
        assert torch.equal(before, after)


class Once(torch.autograd.Function):
    """tanh with a backward pass that is not differentiable again, as custom kernels have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class CustomKernel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(Once.apply(self.enter(x)))


@pytest.mark.parametrize("started", [False, True])
def test_a_model_that_refuses_double_backward_gets_the_difference(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = CustomKernel().double(), torch.randn(5, 7).double()
    smooth = nn.Sequential(model.enter, nn.Tanh(), model.leave)
    expected = gs.jacobian_penalty(smooth, x, generator=torch.Generator().manual_seed(3))
    expected_gradients = gradients(expected, smooth)
    grokalign = gs.GrokAlign(weight=1.0, seed=3)
    if started:
        grokalign.start(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            grokalign.generators[0].manual_seed(3)
            outputs = model(x)
            found = grokalign(model, x)
            assert_close(found, expected)
            ours = gradients(found + 0 * outputs.sum(), model)
            assert_close(ours, expected_gradients, rtol=1e-5, atol=1e-6)
    assert len(caplog.records) == 1
    assert "CustomKernel cannot be differentiated twice" in caplog.text
    with pytest.raises(ValueError, match="offset_weight needs a model that can be"):
        gs.jacobian_penalty(model, x, offset_weight=0.1)
    insisted = gs.jacobian_penalty(model, x, estimator="derivative")
    with pytest.raises(RuntimeError, match="once_differentiable"):
        insisted.backward()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 18)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v).mean(1)


def test_a_kept_pass_by_fused_attention_is_not_differentiated_twice() -> None:
    """It differentiates once only: the penalty takes a pass of its own, by another kernel."""
    model, x = Attention(), torch.randn(4, 5, 6)
    expected = gs.jacobian_penalty(model, x, generator=torch.Generator().manual_seed(3))
    grokalign = gs.GrokAlign(weight=1.0, seed=3)
    grokalign.start(model)
    outputs = model(x)
    found = grokalign(model, x)
    assert_close(found, expected)
    assert_close(gradients(found + 0 * outputs.sum(), model), gradients(expected, model))


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    whole = torch.cat([gradient.flatten() for gradient in expected])
    return float((torch.cat([g.flatten() for g in found]) - whole).norm() / whole.norm())


def test_the_difference_in_low_precision_and_through_checkpoints() -> None:
    """The step is chosen by the arithmetic: a coarse one under autocast."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(20, 50), nn.GELU(), nn.Linear(50, 4)), torch.randn(64, 20)

    def penalty(model: Any, estimator: str) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return gs.jacobian_penalty(model, x, estimator=estimator, generator=generator)

    expected = gradients(penalty(model, "derivative"), model)
    checkpointed = gs.View(model, lambda m, z: checkpoint(m, z, use_reentrant=False))
    for each in (model, checkpointed):
        assert relative_error(gradients(penalty(each, "difference"), model), expected) < 2e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = penalty(model, "difference")
    assert relative_error(gradients(found, model), expected) < 0.1


class PartlyCompiled(nn.Module):
    """What is compiled differentiates once only, and may not keep what that needs."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(
            nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3)
        )
        self.part = torch.compile(self.plain, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


# what torch.compile says to itself where it is given inputs that are computed
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("estimator", ["auto", "derivative", "difference"])
@pytest.mark.parametrize("wants_inputs", [False, True])
def test_a_compiled_part_runs_as_it_was_written_in_the_penalty(
    estimator: str, wants_inputs: bool
) -> None:
    torch._dynamo.reset()
    model, x = PartlyCompiled(), torch.randn(5, 7, requires_grad=wants_inputs)
    generator = torch.Generator().manual_seed(3)
    expected = gradients(gs.jacobian_penalty(model.plain, x, generator=generator), model.plain)
    grokalign = gs.GrokAlign(weight=1.0, seed=3, estimator=estimator)
    grokalign.start(model)
    outputs = model(x)
    found = grokalign(model, x) + 0 * outputs.sum()
    tolerance = 2e-3 if estimator == "difference" else 1e-5
    assert relative_error(gradients(found, model.plain), expected) < tolerance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 0}, "examples must be a positive integer or None"),
        ({"estimator": "differnce"}, "unknown estimator 'differnce'; did you mean 'difference'"),
        ({"estimator": "difference", "offset_weight": 1.0}, "'difference' has no offsets"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gs.jacobian_penalty(nn.Linear(4, 2), torch.zeros(3, 4), **options)
    with pytest.raises(ValueError, match=message):
        gs.GrokAlign(**options)
