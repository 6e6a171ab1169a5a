"""Jacobian and centroid measures against the slow twin, on every kind of network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.chain import chain_of
from tests.measures.networks import NETWORKS, Network, mixed_chain, relu_mlp
from tests.reference import jacobian as slow

CHAINS = {
    "relu_mlp",
    "mixed_chain",
    "wide_mlp",
    "linear",
    "shared_layer",
    "scalar_output",
    "scaled",
    "scaled_scalar",
    "non_contiguous",
    "one_example",
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request: pytest.FixtureRequest) -> Network:
    return request.param()


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_every_measure_equals_the_slow_twin(network: Network, chunk_size: int | None) -> None:
    model, x = network
    rows = slow.jacobian(model, x)
    summed = rows.sum(1)
    a, b = gs.affine_map(model, x, chunk_size=chunk_size)
    geometry = gs.jacobian_geometry(model, x, chunk_size=chunk_size)

    assert_close(gs.input_jacobian(model, x, chunk_size=chunk_size), rows)
    assert_close(a, rows)
    outputs = model(x.clone()).detach().reshape(len(x), -1)
    assert_close(b, outputs - (rows.flatten(2) @ x.flatten(1).unsqueeze(2)).squeeze(2))
    for name, expected in {
        "norm": slow.norm(rows),
        "alignment": slow.alignment(rows, x),
        "pc1": slow.pc1(rows),
        "centroids": summed,
        "centroid_alignment": torch.cosine_similarity(summed.flatten(1), x.flatten(1)),
        "centroid_inner_product": (summed * x).flatten(1).sum(1),
    }.items():
        function = getattr(gs, name, None) or getattr(gs, f"jacobian_{name}")
        assert_close(function(model, x, chunk_size=chunk_size), expected)
        assert_close(getattr(geometry, name), expected)
    assert_close(geometry.centroid_norm, summed.flatten(1).norm(dim=1))
    assert geometry.inputs.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("name", NETWORKS)
def test_just_the_chains_are_taken_for_chains(name: str) -> None:
    model, x = NETWORKS[name]()
    assert (chain_of(model, x) is not None) == (name in CHAINS)


def test_a_chain_that_is_no_longer_certain_is_differentiated() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed(self):
                x = layer(x)
            return x

    hooked = nn.Linear(3, 3)
    hooked.register_forward_hook(lambda module, args, output: 3 * output)
    before = nn.Linear(3, 3)
    before.register_forward_pre_hook(lambda module, args: (args[0] * args[0],))
    patched = nn.Linear(3, 3)
    patched.forward = lambda x: x * x
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    models: list[nn.Module] = [
        nn.Sequential(nn.Linear(3, 3), Doubled(3, 3)),
        Backwards(nn.Linear(3, 3), nn.ReLU()),
        nn.Sequential(hooked, nn.ReLU()),
        nn.Sequential(before, nn.ReLU()),
        nn.Sequential(patched, nn.ReLU()),
        nn.Sequential(parametrized, nn.ReLU()),
        nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(-0.5), nn.Linear(4, 3)),
    ]
    x = torch.randn(4, 3).double()
    for model in models:
        model.double()
        assert chain_of(model, x) is None
        assert_close(gs.input_jacobian(model, x), slow.jacobian(model, x))


@pytest.mark.parametrize(
    "register",
    [
        torch_module.register_module_forward_pre_hook,
        torch_module.register_module_forward_hook,
        torch_module.register_module_full_backward_pre_hook,
        torch_module.register_module_full_backward_hook,
    ],
)
def test_hooks_on_all_modules_end_the_chain(register: Callable[..., Any]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4)
    handle = register(lambda *arguments: None)
    try:
        assert chain_of(model, x) is None
    finally:
        handle.remove()
    assert chain_of(model, x) is not None


def test_a_subclass_of_sequential_with_its_forward_is_a_chain() -> None:
    class Network(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    x = torch.randn(2, 4)
    assert chain_of(Network(), x) is not None
    assert chain_of(Network().double(), x) is None  # the model's own error says what is wrong
    assert chain_of(Network(), torch.randn(2, 6, 4)) is None  # linear along the last axis only
    flattened = nn.Sequential(nn.Flatten(), Network())
    assert chain_of(flattened, torch.randn(2, 1, 4)) is not None
    assert chain_of(flattened, torch.randn(4)) is None
    assert chain_of(nn.Sequential(Network(), nn.Flatten(0)), x) is None  # 3 outputs run together
    assert chain_of(nn.Sequential(), x) is None


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(0.0), nn.ReLU6(), nn.Hardtanh(-1, 2)]
)
def test_at_a_kink_the_chain_has_the_slope_that_autograd_has(activation: nn.Module) -> None:
    first = nn.Linear(1, 8, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[-3.0], [-1], [-0.0], [0], [0.5], [2], [6], [9]]))
    model = nn.Sequential(first, activation, nn.Linear(8, 5)).double()
    x = torch.ones(1, 1).double()
    assert chain_of(model, x) is not None
    assert_close(gs.input_jacobian(model, x), slow.jacobian(model, x))


def test_a_two_layer_network_in_closed_form() -> None:
    """f(x) = W2 relu(W1 x + b1) + b2 with the second hidden unit off at x = (2, 1)."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    w1, b1 = torch.tensor([[1.0, 2], [-3, 1], [0, 4]]), torch.tensor([1.0, 0, -1])
    w2, b2 = torch.tensor([[5.0, 7, -1], [2, 9, 3]]), torch.tensor([10.0, 20])
    with torch.no_grad():
        for target, value in zip(model.parameters(), (w1, b1, w2, b2), strict=True):
            target.copy_(value)
    x = torch.tensor([[2.0, 1]])  # hidden (5, -5 -> 0, 3)
    a, b = gs.affine_map(model, x)

    assert_close(a, torch.tensor([[[5.0, 6], [2, 16]]]))  # 5 (1, 2) - (0, 4); 2 (1, 2) + 3 (0, 4)
    assert_close(b, torch.tensor([[16.0, 19]]))  # 5 * 1 - 1 * -1 + 10; 2 * 1 + 3 * -1 + 20
    assert_close(gs.centroids(model, x), torch.tensor([[7.0, 22]]))
    assert_close(gs.centroid_inner_product(model, x), torch.tensor([36.0]))
    assert_close(gs.jacobian_norm(model, x), torch.tensor([321.0]).sqrt())
    assert_close(
        gs.jacobian_alignment(model, x),
        torch.tensor([[16 / (61 * 5) ** 0.5, 20 / (260 * 5) ** 0.5]]),
    )


def test_affine_map_is_the_network_on_its_whole_region() -> None:
    """Theorem 4's premise: f(x') = A x' + b wherever the activation pattern is that of x."""
    model, x = relu_mlp()
    assert isinstance(model, nn.Sequential)
    a, b = gs.affine_map(model, x)
    assert_close(gs.centroids(model, x), a.sum(1))  # Theorem 4: its rows summed
    patterns = torch.cat([model[:2](x) > 0, model[:4](x) > 0], 1)
    inside = 0
    for scale in (1e-3, 1e-2, 0.1):
        near = x + scale * torch.randn_like(x)
        same = (torch.cat([model[:2](near) > 0, model[:4](near) > 0], 1) == patterns).all(1)
        inside += int(same.sum())
        predicted = (a @ near.unsqueeze(2)).squeeze(2) + b
        assert_close(predicted[same], model(near)[same].detach())
    assert inside >= 2 * len(x)


def test_an_aligned_jacobian_has_an_aligned_centroid() -> None:
    """Proposition 6: A = c x^T has the centroid (1^T c) x, rank one, and aligned rows."""
    x = torch.randn(1, 6).double()
    c = torch.tensor([2.0, -0.5, 1, 0.25]).double()
    model = nn.Linear(6, 4, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.outer(c, x[0]))
    assert_close(gs.centroids(model, x), c.sum() * x)
    assert_close(gs.centroid_alignment(model, x), torch.ones(1).double())
    assert_close(gs.jacobian_alignment(model, x), torch.sign(c).unsqueeze(0))
    assert_close(gs.jacobian_pc1(model, x), torch.ones(1).double())
    assert_close(gs.jacobian_norm(model, x), (c.norm() * x.norm()).view(1))
    # The converse fails: the rows may turn away from x while their sum does not.
    with torch.no_grad():
        off = torch.randn(6).double()
        model.weight[0] += off
        model.weight[1] -= off
    assert_close(gs.centroid_alignment(model, x), torch.ones(1).double())
    assert gs.jacobian_alignment(model, x).abs().min() < 0.99


def test_without_biases_the_inner_product_is_the_sum_of_the_outputs() -> None:
    model = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False))
    x = torch.randn(5, 6)
    assert_close(gs.centroid_inner_product(model, x), model(x).sum(1).detach())


def test_measures_do_not_change_with_the_basis_of_inputs_and_outputs() -> None:
    """Rotating the inputs of the network with its data, or its outputs, leaves the norm and PC1."""
    model, x = relu_mlp()
    q, _ = torch.linalg.qr(torch.randn(7, 7).double())
    r, _ = torch.linalg.qr(torch.randn(3, 3).double())

    def turned(z: Tensor) -> Tensor:
        return model(z @ q) @ r

    before, after = gs.jacobian_geometry(model, x), gs.jacobian_geometry(turned, x @ q.T)
    assert_close(after.norm, before.norm)
    assert_close(after.pc1, before.pc1)


@pytest.mark.parametrize("make", [mixed_chain, NETWORKS["transformer"]])
def test_the_estimated_square_is_unbiased(make: Callable[[], Network]) -> None:
    model, x = make()
    generator = torch.Generator().manual_seed(1)
    exact = gs.jacobian_norm(model, x)
    estimates = gs.jacobian_norm(model, x, projections=2000, generator=generator)
    assert_close(estimates, exact, rtol=0.05, atol=0)
    singles = torch.stack([gs.jacobian_norm(model, x, 1, generator).square() for _ in range(400)])
    error = (singles.mean(0) - exact.square()).abs()
    assert (error < 5 * singles.std(0) / 400**0.5).all()


def test_estimates_repeat_with_the_generator_and_whatever_the_chunks() -> None:
    model, x = relu_mlp()

    def estimate(seed: int, chunk_size: int | None) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return gs.jacobian_norm(model, x, 2, generator, chunk_size=chunk_size)

    assert_close(estimate(3, None), estimate(3, 2))
    assert not torch.allclose(estimate(3, None), estimate(4, None))
    state = torch.get_rng_state()
    assert not torch.allclose(gs.jacobian_norm(model, x, 1), gs.jacobian_norm(model, x, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_output_makes_the_estimate_exact() -> None:
    model, x = NETWORKS["scalar_output"]()
    assert_close(gs.jacobian_norm(model, x, projections=1), gs.jacobian_norm(model, x))
