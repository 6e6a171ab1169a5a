"""Gradient filters under scalers, in half precision, on sparse and wrapped models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods import OneNetwork
from grokscope.training.stacked_networks import StackedNetworks
from tests.reference.penalty import penalty as slow_penalty

KINDS = ("ema", "ma")


def filtered(method: Any, model: nn.Module, gradient: Tensor) -> Tensor:
    (parameter,) = model.parameters()
    parameter.grad = gradient.clone()
    method(model)
    assert parameter.grad is not None
    return parameter.grad.clone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("at", [0, 3])
def test_a_step_that_overflowed_is_left_out_of_what_is_remembered(
    kind: str, bad: float, at: int
) -> None:
    model = nn.Linear(3, 1, bias=False)
    with_it, without = (gs.Grokfast(kind, window=3) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        if step == at:
            spoiled = torch.tensor([[1.0, bad, 2.0]])
            assert_close(filtered(with_it, model, spoiled), spoiled, equal_nan=True)
            assert all(bool(own.isfinite().all()) for own in with_it.state_dict().values())
        gradient = torch.randn(1, 3, generator=generator)
        found = filtered(with_it, model, gradient)
        assert torch.equal(found, filtered(without, model, gradient))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_network_that_overflowed_sits_the_step_out(kind: str) -> None:
    models = [nn.Linear(3, 2, bias=False) for _ in range(3)]
    alone = [copy.deepcopy(model) for model in models]
    methods = [gs.Grokfast(kind, window=2) for _ in models]
    together, stack = gs.Grokfast(kind, window=2), StackedNetworks(models)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        gradients = torch.randn(3, 2, 3, generator=generator)
        if step in (0, 2):
            gradients[step // 2, 1, 1] = float("inf")
        whole = stack.parameters["weight"]
        whole.grad = gradients.clone()
        together.filter_gradients(step, stack)
        for row in range(3):
            assert torch.equal(whole.grad[row], filtered(methods[row], alone[row], gradients[row]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gs.Grokfast(),
        lambda: gs.Grokfast("ma", window=4),
        lambda: gs.GradientNoise(),
        lambda: gs.AdversarialTraining(),
    ],
)
def test_a_state_that_is_kept_does_not_go_on_changing(make: Any) -> None:
    model, method = nn.Linear(3, 1, bias=False), make()

    def step() -> None:
        if isinstance(method, gs.AdversarialTraining):
            method(model, torch.ones(4, 3), torch.zeros(4, dtype=torch.long))
            outputs = torch.tensor([[1.0, 0.0]]) * torch.rand(4, 1)
            method.saw(outputs, torch.zeros(4, dtype=torch.long))
        else:
            filtered(method, model, torch.randn(1, 3))

    for _ in range(5):
        step()
    kept = method.state_dict()
    before = copy.deepcopy(kept)
    for _ in range(3):
        step()
    assert_close(kept, before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_of_bfloat16_gradients_is_kept_in_float32(kind: str) -> None:
    model = nn.Linear(1, 1, bias=False)
    low = copy.deepcopy(model).bfloat16()
    found, twin = (gs.Grokfast(kind, strength=1.0, window=300) for _ in range(2))
    for step in range(301):
        gradient = torch.full((1, 1), 1.0 if step == 0 else 0.5)
        got = filtered(found, low, gradient.bfloat16())
        right = filtered(twin, model, gradient)
    assert got.dtype == torch.bfloat16
    assert_close(got.float(), right, rtol=2**-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e-3, 3e4])
def test_orthograd_of_low_precision_is_that_of_float64(dtype: torch.dtype, size: float) -> None:
    generator = torch.Generator().manual_seed(4)
    w, side = torch.randn(2, 40, generator=generator)
    for angle in (0.02, 0.1, 0.8, 1.5):
        g = size * (w / w.norm() + angle * side / side.norm())
        given = w.to(dtype), g.to(dtype)
        right = gs.orthogonal_gradient(*(own.double() for own in given))
        found = gs.orthogonal_gradient(*given)
        assert found.dtype == dtype
        error = (found.double() - right).norm() / right.norm()
        assert error < max(4 * torch.finfo(dtype).eps, 1e-4)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_orthograd_squares_nothing_out_of_range(size: float) -> None:
    generator = torch.Generator().manual_seed(5)
    w, g = torch.randn(2, 7, generator=generator)
    assert_close(gs.orthogonal_gradient(w, g * size) / size, gs.orthogonal_gradient(w, g))
    assert_close(gs.orthogonal_gradient(w * size, g), gs.orthogonal_gradient(w, g))


def test_orthograd_leaves_nothing_of_a_gradient_along_the_weights() -> None:
    for seed in range(20):
        w = torch.randn(999, generator=torch.Generator().manual_seed(seed))
        assert not gs.orthogonal_gradient(w, 3.3 * w).any()


@pytest.mark.parametrize(
    "make", [lambda: gs.Grokfast(), lambda: gs.Grokfast("ma", window=1), gs.OrthoGrad]
)
def test_a_sparse_gradient_counts_as_the_dense_one_that_it_is(make: Any) -> None:
    torch.manual_seed(0)
    sparse, dense = nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2)
    dense.load_state_dict(sparse.state_dict())
    tokens, results = torch.tensor([1, 3, 3]), []
    for model in (sparse, dense):
        model(tokens).square().sum().backward()
        make()(model)
        assert model.weight.grad is not None
        results.append(model.weight.grad)
    assert_close(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_serves_the_model_with_and_without_its_wrappers(kind: str) -> None:
    plain = nn.Sequential(nn.Linear(3, 2))
    inside = nn.Sequential(torch.compile(plain[0], backend="eager"))
    for one in (plain, inside, torch.compile(plain, backend="eager"), nn.DataParallel(plain)):
        for other in (torch.compile(plain, backend="eager"), plain, inside):
            method, again = gs.Grokfast(kind, window=1), gs.Grokfast(kind, window=1)
            for parameter in plain.parameters():
                parameter.grad = torch.ones_like(parameter)
            method(one)  # type: ignore[arg-type]
            again.load_state_dict(method.state_dict())
            again(other)  # type: ignore[arg-type]
            assert again.state.keys() == method.state.keys()
            names = {name.partition(".")[2] for name in again.state}
            assert names == {"0.weight", "0.bias"}


def test_a_state_of_another_model_kind_or_window_is_refused_by_name() -> None:
    method = gs.Grokfast("ma", window=2)
    filtered(method, nn.Linear(3, 1, bias=False), torch.ones(1, 3))
    state = method.state_dict()
    with pytest.raises(ValueError, match=r"state_dict holds .ring\.weight., which Grokfast"):
        gs.Grokfast().load_state_dict(state)
    with pytest.raises(ValueError, match="holds windows of 2 steps, and window is 3"):
        gs.Grokfast("ma", window=3).load_state_dict(state)
    for model, words in (
        (nn.Sequential(nn.Linear(3, 1, bias=False)), "'weight', which the model does not have"),
        (nn.Linear(2, 1, bias=False), r"shape \(1, 3\) for 'weight', which has shape \(1, 2\)"),
    ):
        again = gs.Grokfast("ma", window=2)
        again.load_state_dict(state)
        with pytest.raises(ValueError, match=words):
            filtered(again, model, torch.ones_like(next(model.parameters())))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_adversarial_inputs_take_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    right = gs.adversarial_inputs(model, x, y, eps=0.1)
    assert torch.equal(gs.adversarial_inputs(model, x, y.to(dtype), eps=0.1), right)
    method = gs.AdversarialTraining(eps=0.1, attack="fgsm", schedule="error")
    assert torch.equal(method(model, x, y.to(dtype)), right)


def test_gradients_of_one_network_keep_their_layout() -> None:
    model = nn.Linear(3, 2)
    model.weight.grad = torch.ones(2, 3)
    found = {name: gradient for name, _, gradient in OneNetwork(model).gradients()}
    assert found["weight"].data_ptr() == model.weight.grad.data_ptr()
    assert OneNetwork(model).named_shapes() == {"weight": (2, 3), "bias": (2,)}


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Softplus(), nn.Linear(5, 3)).double()


def piecewise() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("make", [smooth, normalized, piecewise])
@pytest.mark.parametrize("offset_weight", [0.0, 0.7])
def test_a_stack_has_the_penalty_of_each_of_its_networks(make: Any, offset_weight: float) -> None:
    torch.manual_seed(2)
    models = [make() for _ in range(2)]
    stack, x = StackedNetworks(models), torch.randn(2, 7, 4).double()
    assert (stack.chain(x) is None) == (make is not piecewise)
    method = gs.GrokAlign(0.1, projections=None, offset_weight=offset_weight)
    found = method.penalty(1, stack, x)
    assert found is not None
    expected = [
        0.1 * slow_penalty(model, own, True, offset_weight)
        for model, own in zip(models, x, strict=True)
    ]
    assert_close(found, torch.stack(expected))
    found.sum().backward()
    for row, value in enumerate(expected):
        names = [name for name, _ in models[row].named_parameters()]
        gradients = torch.autograd.grad(value, models[row].parameters(), materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            whole = stack.parameters[name].grad
            assert_close(torch.zeros_like(gradient) if whole is None else whole[row], gradient)
