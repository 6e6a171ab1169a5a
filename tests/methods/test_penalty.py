"""The Jacobian penalty: value and gradient against double backward, and life in a real loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods import chain_terms
from tests.measures.networks import NETWORKS, Network, cnn_with_batch_norm, mixed_chain, relu_mlp
from tests.reference.penalty import penalty as slow_penalty

MODULES = {name: make for name, make in NETWORKS.items() if name != "plain_function"}


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    parameters = list(model.parameters())
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


@pytest.fixture(params=MODULES.values(), ids=MODULES.keys())
def network(request: pytest.FixtureRequest) -> Network:
    return request.param()


@pytest.mark.parametrize("offset_weight", [0.0, 0.7])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("by_gram", [True, False])
def test_value_and_gradient_equal_double_backward(
    network: Network,
    squared: bool,
    offset_weight: float,
    by_gram: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = network
    monkeypatch.setattr(chain_terms, "gram_is_shorter", lambda *_: by_gram)
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels are not differentiable twice
        expected = slow_penalty(model, x, squared, offset_weight)
    found = gs.jacobian_penalty(
        model, x, projections=None, squared=squared, offset_weight=offset_weight
    )
    assert_close(found, expected)
    assert_close(gradients(3 * found, model), gradients(3 * expected, model))


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("make", [relu_mlp, mixed_chain, NETWORKS["wide_mlp"]])
def test_projected_the_chain_equals_double_backward(
    make: Callable[[], Network], squared: bool
) -> None:
    """The same draws either way: a plain function of the model is differentiated twice."""
    model, x = make()
    assert isinstance(model, nn.Module)
    found, expected = (
        gs.jacobian_penalty(
            m, x, projections=2, squared=squared, generator=torch.Generator().manual_seed(5)
        )
        for m in (model, lambda z: model(z))
    )
    assert_close(found, expected)
    assert_close(gradients(found, model), gradients(expected, model))


class Penalized(nn.Module):
    def __init__(self, model: nn.Module, x: Tensor, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.x, self.options = model, x, options

    def forward(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return gs.jacobian_penalty(self.model, self.x, generator=generator, **self.options)


@pytest.mark.parametrize("make", [relu_mlp, mixed_chain])
@pytest.mark.parametrize(
    "options", [{}, {"projections": None}, {"squared": False, "offset_weight": 0.5}]
)
def test_gradcheck(make: Callable[[], Network], options: dict[str, Any]) -> None:
    model, x = make()
    assert isinstance(model, nn.Module)
    penalized = Penalized(model, x, options)
    names = [name for name, _ in penalized.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in penalized.parameters())

    def function(*tensors: Tensor) -> Tensor:
        return functional_call(penalized, dict(zip(names, tensors, strict=True)), ())

    assert torch.autograd.gradcheck(function, values)


def test_biases_of_a_chain_get_no_gradient_from_the_norm_and_some_from_the_offset() -> None:
    model, x = relu_mlp()
    assert isinstance(model, nn.Sequential)
    without = gradients(gs.jacobian_penalty(model, x), model)
    with_offset = gradients(gs.jacobian_penalty(model, x, offset_weight=1.0), model)
    assert all(not g.any() for g in without[1::2])
    assert all(g.any() for g in without[::2])
    assert all(g.any() for g in with_offset)


@pytest.mark.parametrize("offset_weight", [0.0, 2.0])
@pytest.mark.parametrize("make", [relu_mlp, cnn_with_batch_norm])
def test_the_estimate_is_unbiased(make: Callable[[], Network], offset_weight: float) -> None:
    model, x = make()
    options: dict[str, Any] = {"offset_weight": offset_weight}
    generator = torch.Generator().manual_seed(0)
    exact = gs.jacobian_penalty(model, x, projections=None, **options)
    draws = torch.stack(
        [gs.jacobian_penalty(model, x, generator=generator, **options).detach() for _ in range(250)]
    )
    assert (draws.mean() - exact).abs() < 4 * draws.std() / 250**0.5
    many = gs.jacobian_penalty(model, x, projections=500, generator=generator, **options)
    assert_close(many, exact, rtol=0.05, atol=0)


def test_it_is_what_the_measure_measures() -> None:
    model, x = mixed_chain()
    norms = gs.jacobian_norm(model, x)
    assert_close(gs.jacobian_penalty(model, x, projections=None).detach(), norms.square().mean())
    root = gs.jacobian_penalty(model, x, projections=None, squared=False)
    assert_close(root.detach(), norms.mean())


def test_a_zero_jacobian_has_the_gradient_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    penalty = gs.jacobian_penalty(model, torch.ones(2, 3), squared=False, projections=None)
    assert penalty == 0
    assert all(not g.any() for g in gradients(penalty, model))


@pytest.mark.parametrize("name", ["relu_mlp", "residual", "cnn_with_batch_norm"])
def test_nothing_but_the_parameters_gradient_is_touched(name: str) -> None:
    model, x = NETWORKS[name]()
    assert isinstance(model, nn.Module)
    model.train()
    inputs = x.clone()
    buffers = [b.clone() for b in model.buffers()]
    x.requires_grad_()
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    gs.jacobian_penalty(model, x, generator=generator, offset_weight=0.1).backward()

    assert torch.equal(x, inputs)
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in zip(buffers, model.buffers(), strict=True):
        assert torch.equal(before, after)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["relu_mlp", "residual"])
def test_autocast_no_grad_and_frozen_parameters(name: str) -> None:
    model, x = NETWORKS[name]()
    assert isinstance(model, nn.Module)

    def penalty() -> Tensor:
        return gs.jacobian_penalty(model, x, projections=None, offset_weight=0.1)

    expected = penalty()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = penalty()
        inside_gradients = gradients(inside, model)
    assert_close(inside, expected)
    assert_close(inside_gradients, gradients(expected, model))
    with torch.no_grad():
        assert_close(penalty(), expected.detach())
        assert not penalty().requires_grad
    with torch.inference_mode():
        assert_close(penalty().clone(), expected.detach())
    first = next(model.parameters()).requires_grad_(False)
    penalty().backward()
    assert first.grad is None
    model.requires_grad_(False)
    assert_close(penalty().detach(), expected.detach())


def test_batch_norm_in_training_mode_gives_the_jacobian_of_the_whole_batch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3).double()
    whole = torch.autograd.functional.jacobian(model, x)
    generator = torch.Generator().manual_seed(0)
    penalty = gs.jacobian_penalty(model, x, projections=4000, generator=generator)
    assert_close(penalty.detach(), whole.square().sum() / 5, rtol=0.05, atol=0)


@pytest.mark.parametrize("tracked", [True, False])
def test_all_outputs_behind_batch_norm_are_those_of_the_whole_batch(tracked: bool) -> None:
    """Sums of outputs over the batch, which are constant here, are not what is penalized."""
    norm = nn.BatchNorm1d(4, track_running_stats=tracked)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)).double()
    model.train(tracked)  # without running statistics the batch's own count in either mode
    x = torch.randn(5, 3).double()
    expected = torch.autograd.functional.jacobian(model, x).square().sum() / 5
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            gs.jacobian_penalty(model, x, projections=None, generator=generator).detach()
            for _ in range(200)
        ]
    )
    assert (draws.mean() - expected).abs() < 4 * draws.std() / 200**0.5


def test_a_cnn_with_batch_norm_and_dropout_trains_with_it() -> None:
    def trained(weight: float) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(36, 3),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(30):
            penalty = gs.jacobian_penalty(model, x)
            loss = nn.functional.cross_entropy(model(x), y) + weight * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    x, y = torch.randn(32, 1, 8, 8), torch.randint(0, 3, (32,))
    without, with_penalty = trained(0.0), trained(0.5)
    assert int(with_penalty[1].num_batches_tracked) == 30
    norms = [gs.jacobian_norm(model, x).mean() for model in (without, with_penalty)]
    assert norms[1] < 0.6 * norms[0]


def test_attention_is_differentiated_twice() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(6, 18)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.mix(x).chunk(3, dim=-1)
            return nn.functional.scaled_dot_product_attention(q, k, v).mean(1)

    model, x = Attention(), torch.randn(4, 5, 6)
    found = gs.jacobian_penalty(model, x, projections=None)
    with sdpa_kernel(SDPBackend.MATH):
        expected = slow_penalty(model, x, True, 0.0)
    assert_close(found, expected)
    assert_close(gradients(found, model), gradients(expected, model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(4), {}, "x needs a batch axis"),
        (torch.zeros(0, 4), {}, "x is empty"),
        (torch.zeros(3, 5), {}, r"model does not run on x of shape \(3, 5\)"),
        (torch.zeros(3, 4), {"projections": 0}, "projections must be a positive integer or None"),
        (torch.zeros(3, 4), {"offset_weight": -1.0}, "offset_weight must be 0 or positive"),
    ],
)
def test_a_mistake_is_named(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gs.jacobian_penalty(nn.Linear(4, 2), x, **options)


@pytest.mark.parametrize("view", [True, False])
def test_a_batch_of_several_tensors_is_one_function_of_the_one_named(view: bool) -> None:
    """With running statistics, which the penalty's own forward pass must leave alone."""
    norm, linear = nn.BatchNorm1d(4).double(), nn.Linear(4, 3).double()
    model = nn.ModuleDict({"norm": norm, "linear": linear})

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, gate: Tensor, x: Tensor) -> dict[str, Tensor]:
            return {"logits": linear(norm(x)).tanh() * gate}

    gated = Gated()
    batch = {"gate": torch.randn(5, 3).double(), "x": torch.randn(5, 4).double()}
    expected = gs.jacobian_penalty(
        lambda x: linear(
            nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, True)
        ).tanh()
        * batch["gate"],
        batch["x"],
        generator=torch.Generator().manual_seed(0),
    )
    shown = gs.View(gated, lambda m, b: m(**b)["logits"], wrt="x") if view else None
    seeded = torch.Generator().manual_seed(0)
    found = gs.jacobian_penalty(shown or gs.View(gated, wrt="x"), batch, generator=seeded)
    assert_close(found, expected)
    assert_close(gradients(found, linear), gradients(expected, linear))
    assert torch.equal(norm.running_mean, torch.zeros(4).double())


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("inner", [nn.ReLU, nn.Tanh])
def test_outputs_at_every_position_are_named(inner: type[nn.Module], started: bool) -> None:
    model, x = nn.Sequential(nn.Linear(5, 6), inner(), nn.Linear(6, 2)), torch.randn(4, 7, 5)
    method = gs.GrokAlign()
    if started:
        method.start(model)
    model(x)
    with pytest.raises(ValueError, match=r"shape \(4, k\) or \(4,\): got \(4, 7, 2\)"):
        method(model, x)
