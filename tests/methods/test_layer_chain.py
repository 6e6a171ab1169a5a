"""Chains of layers: norms, offsets and their gradients against double backward, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods.layer_chain import (
    LayerPass,
    layer_squared_norms,
    layer_squared_offsets,
    layers_of,
)

N = 5


def trained(model: nn.Module, *shape: int) -> tuple[nn.Module, Tensor]:
    """In eval mode, with running statistics that are not 0 and 1, and a batch."""
    torch.manual_seed(4)
    model = model.double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        model(torch.randn(20, *shape).double())
    return model.eval(), torch.randn(N, *shape).double()


def strided() -> tuple[nn.Module, Tensor]:
    return trained(gs.CNN((3, 9, 8), [4, 5, 6], 3, hidden=[7], mean=0.4, std=0.3), 3, 9, 8)


def max_pooled() -> tuple[nn.Module, Tensor]:
    model = gs.CNN((2, 8, 10), [4, 5, 6], 3, stage=1, downsample="max", batch_norm=True)
    return trained(model, 2, 8, 10)


def average_pooled() -> tuple[nn.Module, Tensor]:
    model = gs.CNN((2, 8, 10), [4, 5], 3, downsample="average", bias=False, output_scale=0.3)
    return trained(model, 2, 8, 10)


def channels_last() -> tuple[nn.Module, Tensor]:
    model, x = trained(gs.CNN((3, 8, 8), [4, 5], 3, stage=1, downsample="max"), 3, 8, 8)
    return model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)


def every_kind() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=(2, 1), groups=2, dilation=(2, 1)), nn.ReLU6()),
        nn.Identity(),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2, inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.Conv2d(6, 5, 1),
        nn.Hardtanh(-0.4, 0.3),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Unflatten(1, (3, 10)),
        nn.Linear(10, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 7, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(7, 3),
    )
    return trained(model, 4, 7, 6)


def one_dimensional() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.AvgPool1d(2), nn.BatchNorm1d(3), nn.Conv1d(3, 4, 3, stride=2), nn.ReLU(),
        nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 1), nn.Flatten(0),
    )  # fmt: skip
    return trained(model, 3, 20)


def three_dimensional() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.ReLU(inplace=True), nn.Conv3d(2, 3, 2), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(),
        nn.BatchNorm1d(24), nn.Linear(24, 4),
    )  # fmt: skip
    return trained(model, 2, 5, 5, 5)


def shared_layer() -> tuple[nn.Module, Tensor]:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return trained(
        nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)), 3, 4, 5
    )


NETWORKS = [
    strided, max_pooled, average_pooled, channels_last, every_kind, one_dimensional,
    three_dimensional, shared_layer,
]  # fmt: skip


def by_double_backward(model: nn.Module, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """||u^T A||^2 over the directions, and ||b||^2 from all rows of A."""
    leaf = x.clone().requires_grad_()
    outputs = model(leaf.clone()).reshape(len(x), -1)

    def row(u: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, leaf, u, create_graph=True)[0].flatten(1)

    norms = torch.stack([row(u).square().sum(1) for u in directions.unbind(1)]).sum(0)
    every = torch.eye(outputs.shape[1]).double().expand(len(x), -1, -1)
    along = torch.stack([(row(u) * x.flatten(1)).sum(1) for u in every.unbind(1)], 1)
    return norms, (outputs - along).square().sum(1)


@pytest.mark.parametrize("make", NETWORKS)
def test_norms_offsets_and_gradients_equal_double_backward(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    model, x = make()
    layers = layers_of(model, x)
    assert layers is not None
    made = LayerPass.run(layers, x)
    assert_close(made.result, model(x.clone()).reshape(N, -1))
    directions = torch.randn(N, 2, made.result.shape[1]).double()
    found = layer_squared_norms(made, directions), layer_squared_offsets(made)
    expected = by_double_backward(model, x, directions)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weights = torch.rand(N).double()  # each example's share in the gradient is its own
    parameters = list(model.parameters())
    for one, other in zip(found, expected, strict=True):
        ours, theirs = (
            torch.autograd.grad(
                (weights * value).sum(), parameters, retain_graph=True, materialize_grads=True
            )
            for value in (one, other)
        )
        assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        nn.GELU(),
        nn.Conv2d(3, 3, 1, padding="same"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
        nn.LeakyReLU(-0.5),
        nn.Dropout(0.5),
        Custom(),
        nn.Sequential(nn.ReLU(), nn.Hardtanh(0.1, 0.5, inplace=True)),
        nn.Sequential(nn.Flatten(2), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
        nn.Conv2d(3, 3, 1).requires_grad_(False),
        nn.MaxPool2d(2, return_indices=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_not_certain_is_no_chain(layer: nn.Module) -> None:
    x = torch.randn(N, 3, 4, 4)
    assert layers_of(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), x) is not None
    assert layers_of(nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Flatten()), x) is None


def test_a_hook_or_another_type_of_number_is_no_chain() -> None:
    model, x = gs.CNN((3, 4, 4), [3], 2), torch.randn(N, 3, 4, 4)
    assert layers_of(model, x) is not None
    assert layers_of(model, x.double()) is None
    assert layers_of(lambda x: model(x), x) is None
    model.conv1.register_forward_hook(lambda *_: None)
    assert layers_of(model, x) is None


def test_a_weight_changed_before_the_backward_pass_is_noticed() -> None:
    model, x = gs.CNN((3, 4, 4), [3], 2), torch.randn(N, 3, 4, 4)
    made = LayerPass.run(list(model), x)
    norms = layer_squared_norms(made, torch.randn(N, 1, 2)).sum()
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        norms.backward()
