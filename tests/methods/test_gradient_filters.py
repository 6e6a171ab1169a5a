"""Grokfast, OrthoGrad and gradient noise against slow twins and closed forms."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods import OneNetwork
from tests.reference.methods import ema_filtered, ma_filtered, orthogonal


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def random_gradients(model: nn.Module, steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(8)
    return [
        [torch.randn(p.shape, generator=generator).double() for p in model.parameters()]
        for _ in range(steps)
    ]


def filtered(method: Any, model: nn.Module, gradients: list[Tensor], step: int) -> list[Tensor]:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    method.filter_gradients(step, OneNetwork(model))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["ema", "ma"])
def test_grokfast_is_the_closed_form_over_all_past_gradients(kind: str) -> None:
    model = network()
    steps = random_gradients(model, 17)
    method = gs.Grokfast(kind, strength=1.7, alpha=0.8, window=5)
    for last, given in enumerate(steps):
        found = filtered(method, model, given, last + 1)
        assert len(found) == len(given)
        for index, gradient in enumerate(found):
            past = [step[index] for step in steps[: last + 1]]
            twins = {"ema": ema_filtered(past, 0.8, 1.7), "ma": ma_filtered(past, 5, 1.7)}
            assert_close(gradient, twins[kind], rtol=1e-12, atol=1e-12)


def test_the_window_does_not_gather_rounding() -> None:
    model = nn.Linear(1, 1, bias=False)
    method = gs.Grokfast("ma", strength=1.0, window=3)
    for step, value in enumerate([1e8, 1.0, 1.0] + [1.0] * 9):
        (found,) = filtered(method, model, [torch.full((1, 1), value)], step)
    assert found.item() == 2.0


def test_defaults_are_those_of_the_authors() -> None:
    assert (gs.Grokfast().strength, gs.Grokfast().alpha) == (2.0, 0.98)
    assert (gs.Grokfast("ma").strength, gs.Grokfast("ma").window) == (5.0, 100)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
def test_orthograd_is_the_projection_at_the_gradients_length(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    w, g = (torch.randn(shape, generator=generator).double() for _ in range(2))
    found = gs.orthogonal_gradient(w, g)
    assert abs(float((w * found).sum())) < 1e-12
    assert_close(found.norm(), g.norm())
    assert_close(found, orthogonal(w, g))


def test_orthograd_with_half_the_strength_leaves_half_of_the_part_along_the_weights() -> None:
    w, g = torch.tensor([2.0, 0.0]).double(), torch.tensor([4.0, 3.0]).double()
    found = gs.orthogonal_gradient(w, g, strength=0.5)
    assert_close(found, torch.tensor([2.0, 3.0]).double() * 5 / math.sqrt(13))


def test_orthograd_treats_stacked_networks_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    w, g = (torch.randn(5, 3, 4, generator=generator).double() for _ in range(2))
    w[2] = 0
    alone = torch.stack([gs.orthogonal_gradient(w[i], g[i]) for i in range(5)])
    assert_close(gs.orthogonal_gradient(w, g, batch_dims=1), alone)
    assert not torch.allclose(gs.orthogonal_gradient(w, g), alone)


def test_orthograd_has_an_answer_where_there_is_no_direction() -> None:
    zero, g = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    assert_close(gs.orthogonal_gradient(zero, g), g)
    assert_close(gs.orthogonal_gradient(g, zero), zero)
    assert_close(gs.orthogonal_gradient(g, -7 * g), zero)
    one = torch.tensor(0.3)
    assert gs.orthogonal_gradient(one, torch.tensor(0.7)) == 0


@pytest.mark.parametrize("variance", [0.3, 1.0])
def test_gradient_noise_has_the_variance_of_its_step_and_fades(variance: float) -> None:
    model = nn.Linear(300, 200, bias=False)
    noise = gs.GradientNoise(variance=variance, decay=0.55, seed=4)
    state = torch.get_rng_state()
    for step in (1, 40):
        (found,) = filtered(noise, model, [torch.ones(200, 300)], step)
        assert_close(found.mean().item(), 1.0, atol=0.01, rtol=0)
        assert_close(found.var().item(), variance / step**0.55, rtol=0.02, atol=0)
        assert gs.noise_deviation(step, variance) ** 2 == pytest.approx(variance / step**0.55)
    assert torch.equal(torch.get_rng_state(), state)


FILTERS: dict[str, tuple[Any, Any]] = {
    "ema": (lambda **s: gs.Grokfast(**s), {"strength": 0.0}),
    "ma": (lambda **s: gs.Grokfast("ma", window=3, **s), {"strength": 0.0}),
    "orthograd": (lambda **s: gs.OrthoGrad(**s), {"strength": 0.0}),
    "noise": (lambda **s: gs.GradientNoise(**s), {"variance": 0.0}),
}


@pytest.mark.parametrize("name", FILTERS)
def test_strength_zero_leaves_gradients_as_they_are(name: str) -> None:
    make, zero = FILTERS[name]
    model = network()
    (given,) = random_gradients(model, 1)
    assert all(map(torch.equal, filtered(make(**zero), model, given, 1), given))
    changed = filtered(make(), model, given, 1)
    assert name == "ma" or not any(map(torch.equal, changed, given))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("stop", [1, 4])
def test_ones_own_loop_resumes(name: str, stop: int) -> None:
    make, _ = FILTERS[name]
    model = network()

    def results(method: Any, steps: list[list[Tensor]]) -> list[list[Tensor]]:
        found = []
        for given in steps:
            for parameter, gradient in zip(model.parameters(), given, strict=True):
                parameter.grad = gradient.clone()
            method(model)
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        return found

    steps = random_gradients(model, 7)
    whole = results(make(), steps)
    first = make()
    results(first, steps[:stop])
    second = make()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    results(first, steps[stop:])  # goes its own way from here
    assert [len(step) for step in whole] == [len(step) for step in steps]
    assert all(
        torch.equal(a, b)
        for step, again in zip(whole[stop:], results(second, steps[stop:]), strict=True)
        for a, b in zip(step, again, strict=True)
    )


@pytest.mark.parametrize("name", FILTERS)
def test_frozen_parameters_are_let_by(name: str) -> None:
    make, _ = FILTERS[name]
    model = network()
    first = next(model.parameters())
    first.requires_grad_(False)
    model(torch.randn(5, 3).double()).sum().backward()
    method = make()
    for _ in range(4):
        method(model)
    assert first.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in list(model.parameters())[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gs.Grokfast("mean"), "kind must be 'ema' or 'ma': got 'mean'"),
        (lambda: gs.Grokfast(strength=-1), "strength must be 0 or positive"),
        (lambda: gs.Grokfast(alpha=1.0), "alpha must be at least 0 and less than 1: got 1.0"),
        (lambda: gs.Grokfast("ma", window=0), "window must be a positive integer: got 0"),
        (lambda: gs.OrthoGrad(1.5), "strength must be between 0 and 1: got 1.5"),
        (lambda: gs.GradientNoise(float("nan")), "variance must be a finite number"),
        (lambda: gs.GradientNoise(decay=-1), "decay must be 0 or positive, and finite"),
    ],
)
def test_a_mistake_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("max_norm", [0.3, 2.0, 50.0, 1e30])
def test_clipping_is_that_of_torch(max_norm: float) -> None:
    model = network()
    (given,) = random_gradients(model, 1)
    found = [g.clone() for g in filtered(gs.GradientClipping(max_norm), model, given, 1)]
    for parameter, gradient in zip(model.parameters(), given, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    expected = [parameter.grad for parameter in model.parameters()]
    assert_close(found, expected, rtol=1e-12, atol=0)
    if max_norm >= 50:
        assert all(torch.equal(a, b) for a, b in zip(found, given, strict=True))
    with pytest.raises(ValueError, match="max_norm must be positive: got 0"):
        gs.GradientClipping(0)
