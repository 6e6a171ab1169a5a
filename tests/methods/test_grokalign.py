"""GrokAlign as a method: when it applies, what it draws, what it reuses, how it resumes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods import OneNetwork
from grokscope.training.objective import NetworksObjective, Objective
from tests.measures.networks import NETWORKS, mixed_chain

CHAINS = ("relu_mlp", "mixed_chain", "shared_layer")


def mlp() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))


def train(
    method: gs.GrokAlign | None, model: nn.Module, first: int, last: int, seed: int = 1
) -> nn.Module:
    """Steps ``first`` to ``last`` of a fixed run, in the order in which a loop calls a method."""
    data = torch.Generator().manual_seed(seed)
    x, y = torch.randn(20, 6, generator=data), torch.randint(0, 4, (20,), generator=data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    networks, loss_of = OneNetwork(model), NetworksObjective(Objective("cross_entropy"))
    if method:
        method.start(networks)
    for step in range(first, last + 1):
        part = torch.arange(step, step + 10) % 20
        inputs, labels = x[part].unsqueeze(0), y[part].unsqueeze(0)
        if method:
            inputs = method.perturb(step, networks, inputs, labels, loss_of)
        outputs = networks(inputs)
        loss = loss_of(outputs, labels)
        penalty = method.penalty(step, networks, inputs, outputs) if method else None
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty.sum()).backward()
        optimizer.step()
    if method:
        method.finish()
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_weight_zero_is_the_baseline_bit_for_bit() -> None:
    torch.manual_seed(11)
    baseline = train(None, mlp(), 1, 12)
    state = torch.get_rng_state()
    found = train(gs.GrokAlign(weight=0.0, offset_weight=1.0), mlp(), 1, 12)
    assert same(baseline, found)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(baseline, train(gs.GrokAlign(), mlp(), 1, 12))


def test_weight_zero_in_ones_own_loop_adds_zero() -> None:
    grokalign, model, x = gs.GrokAlign(weight=0.0), mlp(), torch.randn(5, 6)
    assert grokalign(model, x) == 0
    assert not grokalign(model, x).requires_grad


def test_it_draws_from_its_own_generator() -> None:
    model, x, state = mlp(), torch.randn(5, 6), torch.get_rng_state()
    one, two = gs.GrokAlign(seed=4), gs.GrokAlign(seed=4)
    first = one(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, two(model, x))
    assert not torch.equal(first, one(model, x))
    assert not torch.equal(first, gs.GrokAlign(seed=5)(model, x))


def test_every_applies_at_each_jth_step_with_j_times_the_weight() -> None:
    model, x = mlp(), torch.randn(5, 6)
    sparse, exact = (gs.GrokAlign(0.01, every=j, projections=None) for j in (3, 1))
    networks, batch = OneNetwork(model), x.unsqueeze(0)
    penalties = [sparse.penalty(step, networks, batch) for step in range(1, 8)]
    assert [p is None for p in penalties] == [True, True, False, True, True, False, True]
    assert_close(penalties[2], 3 * exact.penalty(3, networks, batch))
    calls = [sparse(model, x).item() > 0 for _ in range(6)]
    assert calls == [False, False, True, False, False, True]


def test_both_modes_in_terms_of_the_penalty() -> None:
    model, x = mixed_chain()
    assert isinstance(model, nn.Module)
    exact: dict[str, Any] = {"projections": None}
    square = gs.jacobian_penalty(model, x, **exact)
    norm = gs.jacobian_penalty(model, x, squared=False, **exact)
    offset = gs.jacobian_penalty(model, x, offset_weight=1.0, **exact) - square

    def call(**options: Any) -> Tensor:
        return gs.GrokAlign(weight=0.1, **exact, **options)(model, x)

    assert_close(call(), 0.1 * square)
    assert_close(call(squared=False), 0.1 * norm)
    assert_close(call(offset_weight=2.0), 0.1 * (square + 2 * offset))
    above, below = 2 * norm.item(), 0.5 * norm.item()
    assert_close(call(mode="constrain", target=above), 0.1 * (above - norm))
    assert_close(
        call(mode="constrain", target=below, offset_weight=2.0), 0.1 * (norm - below + 2 * offset)
    )


def test_constrain_holds_the_mean_norm_at_the_target() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4))
    x = torch.randn(50, 6)
    hold = gs.GrokAlign(weight=1.0, mode="constrain", target=2.5, projections=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        hold(model, x).backward()
        optimizer.step()
    assert abs(gs.jacobian_norm(model, x).mean().item() - 2.5) < 0.1


@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_is_the_uninterrupted_one(every: int) -> None:
    whole = train(gs.GrokAlign(0.1, every=every), mlp(), 1, 11)
    method = gs.GrokAlign(0.1, every=every)
    model = train(method, mlp(), 1, 5)
    resumed = gs.GrokAlign(0.1, every=every, seed=99)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert same(whole, train(resumed, model, 6, 11))


def test_ones_own_loop_resumes_too() -> None:
    model, x = mlp(), torch.randn(5, 6)
    method = gs.GrokAlign(every=2)
    values = [method(model, x).item() for _ in range(7)]
    method = gs.GrokAlign(every=2)
    for _ in range(3):
        method(model, x)
    resumed = gs.GrokAlign(every=2)
    resumed.load_state_dict(method.state_dict())
    assert [resumed(model, x).item() for _ in range(4)] == values[3:]
    state = method.state_dict()
    assert state
    assert all(isinstance(value, Tensor | int) for value in state.values())


@pytest.mark.parametrize("name", ["relu_mlp", "mixed_chain", "shared_layer", "residual"])
def test_the_captured_forward_pass_gives_the_same_penalty(name: str) -> None:
    model, x = NETWORKS[name]()
    assert isinstance(model, nn.Module)
    plain, watching = (gs.GrokAlign(offset_weight=0.5) for _ in range(2))
    networks, batch = OneNetwork(model), x.unsqueeze(0)
    watching.start(networks)
    for _ in range(3):
        networks.watching = True  # as at each step that has a penalty
        model(x.clone())
        outputs = model(x)
        with torch.no_grad():
            model(2 * x)  # an evaluation in between
        assert (networks.captured(x) is not None) == (name in CHAINS)
        found = watching.penalty(1, networks, batch, outputs.unsqueeze(0))
        expected = plain.penalty(1, OneNetwork(model), batch)
        assert found is not None
        assert expected is not None
        assert_close(found, expected)
        params = list(model.parameters())
        assert_close(torch.autograd.grad(found, params), torch.autograd.grad(expected, params))
    watching.finish()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_chain_runs_no_second_forward_pass_when_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from grokscope.measures.chain import Chain

    model, x = mlp(), torch.randn(5, 6)
    method = gs.GrokAlign()
    method.start(model)
    outputs = model(x)

    def refuse(*_: Any) -> None:
        raise AssertionError("a second forward pass")

    monkeypatch.setattr(Chain, "run", refuse)
    assert outputs.requires_grad
    assert method(model, x) > 0
    with pytest.raises(AssertionError, match="a second forward pass"):
        gs.GrokAlign()(model, x)


@pytest.mark.parametrize(
    "change",
    ["another_x", "x_in_place", "weights_in_place", "another_pass", "not_enabled", "no_pass"],
)
def test_a_capture_that_is_of_something_else_is_not_used(change: str) -> None:
    model, x = mlp(), torch.randn(5, 6)
    method, fresh, networks = gs.GrokAlign(), gs.GrokAlign(), OneNetwork(model)
    method.start(networks)
    if change == "not_enabled":
        networks.watching = False
    if change != "no_pass":
        model(x)
    if change == "another_x":
        x = x + torch.randn_like(x)
    elif change == "x_in_place":
        x.neg_()
    elif change == "weights_in_place":
        with torch.no_grad():
            model[0].weight.neg_()
    elif change == "another_pass":
        model(-x)
    assert networks.captured(x) is None
    assert_close(
        method.penalty(1, networks, x.unsqueeze(0)),
        fresh.penalty(1, OneNetwork(model), x.unsqueeze(0)),
    )


def test_a_watched_model_can_be_copied_and_saved() -> None:
    model, x = mlp(), torch.randn(5, 6, requires_grad=True)
    method = gs.GrokAlign()
    method.start(model)
    outputs = model(2 * x)  # an input that cannot be copied, kept by the capture
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (twin, loaded):
        assert_close(other(2 * x), outputs)
        assert_close(gs.GrokAlign()(other, x.detach()), gs.GrokAlign()(mlp(), x.detach()))


def test_a_forward_pass_under_autocast_can_be_reused() -> None:
    model, x = mlp(), torch.randn(5, 6)
    watching, plain = gs.GrokAlign(offset_weight=0.5), gs.GrokAlign(offset_weight=0.5)
    networks = OneNetwork(model)
    watching.start(networks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
        assert networks.captured(x) is not None
        found = watching.penalty(1, networks, x.unsqueeze(0))
    expected = plain.penalty(1, OneNetwork(model), x.unsqueeze(0))
    assert found is not None
    assert_close(found, expected)  # rounding moves no activation across its kink here


def test_hooks_of_others_keep_their_effect() -> None:
    model, x = mlp(), torch.randn(5, 6)
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    method = gs.GrokAlign(weight=1.0, projections=None)
    method.start(model)
    model(x)
    found = method(model, x)
    assert_close(found.detach(), gs.jacobian_norm(lambda z: model(z), x).square().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "maximize"}, "mode must be 'minimize' or 'constrain': got 'maximize'"),
        ({"weight": -1.0}, "weight must be 0 or positive, and finite: got -1.0"),
        ({"weight": float("nan")}, "weight must be"),
        ({"offset_weight": -0.1}, "offset_weight must be"),
        ({"mode": "constrain"}, "mode='constrain' needs target"),
        ({"mode": "constrain", "target": -2.0}, "mode='constrain' needs target"),
        ({"target": 5.0}, "target is for mode='constrain'"),
        ({"every": 0}, "every must be a positive integer: got 0"),
        ({"projections": 0}, "projections must be a positive integer or None"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gs.GrokAlign(**options)


def test_a_call_on_inputs_that_are_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        gs.GrokAlign()(mlp(), torch.full((3, 6), torch.nan))


def convolutional() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(15, 4)).double()


def tanh() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


KINDS = {"linear": lambda: mlp().double(), "convolutional": convolutional, "smooth": tanh}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("started", [False, True])
def test_no_gradient_flows_to_inputs_that_have_one(kind: str, started: bool) -> None:
    model, y = KINDS[kind](), torch.arange(5) % 4
    x = torch.randn(5, 6).double().requires_grad_()
    expected = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)[0]
    method = gs.GrokAlign(1.0, projections=None)
    if started:
        method.start(model)
    (nn.functional.cross_entropy(model(x), y) + method(model, x)).backward()
    assert_close(x.grad, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_may_go_back_first(kind: str) -> None:
    found = []
    for started in (False, True):
        model, y = KINDS[kind](), torch.arange(5) % 4
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2)).double()
        method = gs.GrokAlign(1.0, offset_weight=0.3)
        if started:
            method.start(model)
        nn.functional.cross_entropy(model(x), y).backward()
        method(model, x).backward()
        found.append([own.grad for own in model.parameters()])
    assert_close(found[0], found[1])


@pytest.mark.parametrize("make", [gs.GrokAlign, gs.GradientNoise, gs.AdversarialTraining])
def test_a_state_that_lacks_something_is_refused(make: Any) -> None:
    whole = make().state_dict()
    for state in ({}, *({k: v for k, v in whole.items() if k != name} for name in whole)):
        with pytest.raises(ValueError, match=rf"state_dict has no '\w+', which {make.__name__}"):
            make().load_state_dict(state)
