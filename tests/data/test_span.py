"""Training in the span of the first layer's rows and the data, against training directly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.data import Dataset, reduce_to_span

D, H, N, M = 60, 9, 14, 11


def network(out_features: int | None = 3, bias: bool = True) -> gs.MLP:
    return gs.MLP(D, [H, 5], out_features, bias=bias, seed=1).double()


@pytest.fixture
def data() -> Dataset:
    x = torch.randn(N + M, 3, 4, 5, dtype=torch.float64)
    x[1] = x[0]  # the span has fewer dimensions than there are rows
    y = torch.arange(N + M) % 3
    return Dataset("made up", x[:N], y[:N], x[N:], y[N:], num_classes=3, image_shape=(3, 4, 5))


def trained(model: nn.Module, data: Dataset, **settings: object) -> nn.Module:
    methods = [gs.GrokAlign(0.05, squared=False, seed=3)]
    defaults = {"optimizer": "sgd", "lr": 0.2, "weight_decay": 0.03, "momentum": 0.5}
    gs.fit(model, data, methods=methods, max_steps=150, device="cpu", **defaults | settings)
    return model


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_training_takes_the_same_course(data: Dataset, bias: bool, batch_size: int | None) -> None:
    model = network(bias=bias)
    reduced = reduce_to_span(model, data)
    assert reduced.basis.shape == (H + N, D)
    start = copy.deepcopy(model)
    trained(model, data, batch_size=batch_size)
    trained(reduced.model, reduced.data, batch_size=batch_size)
    assert largest_difference(model, start) > 0.1
    assert largest_difference(model, reduced.lift(reduced.model)) < 1e-9

    x, noise = data.test_x, torch.randn(M, D, dtype=torch.float64)
    assert_close(reduced.model(reduced.data.test_x), model(x), rtol=0, atol=1e-9)
    noisy = reduced.model(reduced.data.test_x + reduced.project(noise))
    assert_close(noisy, model(x.flatten(1) + noise), rtol=0, atol=1e-9)


def test_an_optimizer_by_coordinates_takes_another_course(data: Dataset) -> None:
    """What the comparison above would not see, it could not vouch for."""
    model = network()
    reduced = reduce_to_span(model, data)
    for each, examples in ((model, data), (reduced.model, reduced.data)):
        trained(each, examples, optimizer="adam", lr=0.01)
    assert largest_difference(model, reduced.lift(reduced.model)) > 1e-3


def test_geometry_of_training_points_is_the_same(data: Dataset) -> None:
    model = network()
    reduced = reduce_to_span(model, data)
    direct = gs.jacobian_geometry(model, data.train_x)
    inside = gs.jacobian_geometry(reduced.model, reduced.data.train_x)
    for name in ("norm", "alignment", "pc1", "centroid_alignment", "centroid_norm"):
        assert_close(getattr(inside, name), getattr(direct, name))
    assert_close(inside.centroids @ reduced.basis, direct.centroids.flatten(1))
    radius = gs.robust_radius(reduced.model, reduced.data.train_x, data.train_y)
    assert_close(radius, gs.robust_radius(model, data.train_x, data.train_y))


def test_the_basis_is_orthonormal_and_the_model_as_it_was(data: Dataset) -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    reduced = reduce_to_span(model, data)
    assert_close(reduced.basis @ reduced.basis.T, torch.eye(H + N, dtype=torch.float64))
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    shared = {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in reduced.model.parameters()
    }
    assert not shared
    assert reduced.model.training
    assert reduced.model.linear1.in_features == H + N
    assert reduced.data.image_shape is None


def test_a_span_of_all_dimensions_is_left_as_it_is(data: Dataset) -> None:
    model = gs.MLP(D, [D], 3, seed=0)
    reduced = reduce_to_span(model, data)
    assert torch.equal(reduced.basis, torch.eye(D))
    assert torch.equal(reduced.model.linear1.weight, model.linear1.weight)
    assert reduced.data.train_x.dtype == torch.float32


def test_single_precision_stays_close() -> None:
    data = gs.load_data("xor", train_size=30, test_size=20, dimension=900)
    model = gs.MLP(900, [40], None, bias=False, seed=0)
    reduced = reduce_to_span(model, data)
    settings = {"loss": "mse", "momentum": 0.0, "lr": 0.1, "weight_decay": 0.1}
    trained(model, data, **settings)
    trained(reduced.model, reduced.data, **settings)
    assert_close(reduced.model(reduced.data.test_x), model(data.test_x), rtol=0, atol=1e-3)


class Named(nn.Module):
    """A model that is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Linear(4, 3), nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x.flatten(1)).tanh())


def test_other_models_name_their_layer(data: Dataset) -> None:
    model = Named().double()
    with pytest.raises(ValueError, match="name the layer that takes the inputs by layer="):
        reduce_to_span(model, data)
    reduced = reduce_to_span(model, data, layer="inner")
    trained(model, data)
    trained(reduced.model, reduced.data)
    assert largest_difference(model, reduced.lift(reduced.model)) < 1e-9


def test_what_cannot_be_reduced_is_named(data: Dataset) -> None:
    with pytest.raises(ValueError, match="must be a linear layer with 60 inputs"):
        reduce_to_span(gs.MLP(59, [4], 3), data)
    shifted = nn.Sequential(nn.Flatten(), nn.Linear(D, 3)).double()
    shifted.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with pytest.raises(ValueError, match="does not compute the same from reduced inputs"):
        reduce_to_span(shifted, data)
