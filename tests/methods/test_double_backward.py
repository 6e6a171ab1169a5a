"""Layers on graphs of our own: derivatives to the third order against those by PyTorch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import grokscope as gs
from grokscope.methods.double_backward import OnLayer, cheap_second_derivatives

OURS = ("_ByInputBackward", "_BatchNormBackward")
# PyTorch's advice on a size that it pads on one side
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def frozen_kernel() -> nn.Module:
    layer = nn.Conv2d(4, 3, 3)
    layer.weight.requires_grad_(False)
    return layer


def frozen_bias() -> nn.Module:
    layer = nn.Conv2d(4, 3, 3)
    assert layer.bias is not None
    layer.bias.requires_grad_(False)
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "one axis": (lambda: nn.Conv1d(4, 3, 5, stride=2, padding=1), (9,)),
    "three axes": (lambda: nn.Conv3d(4, 3, 2, padding=1, bias=False), (3, 4, 3)),
    "strides": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (7, 6)),
    "groups and dilation": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (7, 8)),
    "each channel by itself": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"), (5, 6)),
    "the same size, even kernel": (lambda: nn.Conv2d(4, 3, 2, padding="same"), (5, 6)),
    "around": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), (5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1), (4, 3)),
    "transposed, groups": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2, padding=1), (6,)),
    "kernel frozen": (frozen_kernel, (6, 6)),
    "bias frozen": (frozen_bias, (6, 6)),
    "BatchNorm": (lambda: nn.BatchNorm2d(4), (3, 5)),
    "BatchNorm, one axis": (lambda: nn.BatchNorm1d(4), (6,)),
    "BatchNorm, no axis": (lambda: nn.BatchNorm1d(4, eps=0.1), ()),
    "BatchNorm, three axes": (lambda: nn.BatchNorm3d(4, track_running_stats=False), (2, 3, 2)),
    "BatchNorm without weights": (lambda: nn.BatchNorm2d(4, affine=False), (3, 5)),
    "length of its own": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3)), (6, 6)),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """The layer between others, with an activation in place behind it, and a batch."""
    torch.manual_seed(0)
    build, sides = LAYERS[name]
    inside = nn.Sequential(build(), nn.ELU(inplace=True), nn.Flatten())
    model = nn.Sequential(nn.Tanh(), inside, nn.LazyLinear(3)).double()
    x = torch.randn(5, 4, *sides, dtype=torch.float64)
    model(x)
    for parameter in model.parameters():  # not the ones and zeros that some begin with
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model, x


class ByParts(nn.Module):
    """BatchNorm in training mode from operations that PyTorch differentiates to any order.

    The third derivative of its own BatchNorm takes mean and deviation for constants (2.13).
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        center = x - x.mean(axes, keepdim=True)
        z = center / (center.square().mean(axes, keepdim=True) + self.norm.eps).sqrt()
        if not self.norm.affine:
            return z
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return z * self.norm.weight.view(shape) + self.norm.bias.view(shape)


def twin(model: nn.Module) -> nn.Module:
    """The same network, with the same parameters, for autograd alone."""
    first, inside, last = model.children()
    layer, *others = inside.children()
    layer = ByParts(layer) if isinstance(layer, nn.modules.batchnorm._BatchNorm) else layer
    return nn.Sequential(first, nn.Sequential(layer, *others), last)


def derivatives(
    model: nn.Module, x: Tensor, passes: AbstractContextManager[Any]
) -> list[Tensor | None]:
    """Outputs, their gradient, and of a loss with that as a penalty two derivatives more."""
    trained = [p for p in model.parameters() if p.requires_grad]
    leaf = x.clone().requires_grad_()
    with passes:
        outputs = model(leaf.clone())
    u = torch.linspace(-1, 1, outputs.numel(), dtype=x.dtype).view_as(outputs)
    (row,) = torch.autograd.grad(outputs, leaf, u, create_graph=True)
    total = outputs.square().sum() + row.square().sum()
    second = torch.autograd.grad(total, [leaf, *trained], create_graph=True)
    third = torch.autograd.grad(
        sum((s.square().sum() for s in second), x.new_zeros(())), [leaf, *trained]
    )
    return [outputs, row, *second, *third]


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_are_those_of_autograd(name: str) -> None:
    model, x = network(name)
    expected = derivatives(twin(model), x, nullcontext())
    found = derivatives(model, x, cheap_second_derivatives([model]))
    assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_is_ours_inside_and_pytorchs_outside(name: str) -> None:
    model, x = network(name)
    layer = model[1][0]  # type: ignore[index]
    given = x.requires_grad_()
    with cheap_second_derivatives([model]):
        inside = layer(given)
    outside = layer(given)
    assert inside.grad_fn.name() in OURS
    assert outside.grad_fn.name() not in OURS


KEPT: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "BatchNorm in eval mode": lambda: (nn.BatchNorm2d(4).eval(), torch.randn(5, 4, 3, 3)),
    # the statistics are in full precision there
    "BatchNorm of halves": lambda: (nn.BatchNorm2d(4), torch.randn(5, 4, 3, 3).bfloat16()),
    "no gradient by the input": lambda: (nn.Conv2d(4, 3, 3), torch.randn(5, 4, 6, 6)),
    "another layer": lambda: (nn.GroupNorm(2, 4), torch.randn(5, 4, 3, 3)),
}


@pytest.mark.parametrize("name", KEPT)
def test_layers_with_nothing_to_gain_keep_their_graph(name: str) -> None:
    layer, x = KEPT[name]()
    x.requires_grad_(not name.startswith("no gradient"))
    with cheap_second_derivatives([layer]):
        outputs = layer(x)
    assert outputs.grad_fn.name() not in OURS


def test_a_gradient_by_inputs_alone_computes_none_by_kernels() -> None:
    model, x = network("strides")
    leaf = x.requires_grad_()
    with cheap_second_derivatives([model]):
        outputs = model(leaf)
    with torch.profiler.profile() as seen:
        torch.autograd.grad(outputs.sum(), leaf, create_graph=True)
    names = [event.key for event in seen.key_averages()]
    assert "_InputGradient" in names
    assert "_KernelGradient" not in names


class Doubled(nn.Module):
    """Twice what a convolution returns, by a hook on it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3)
        self.conv.register_forward_hook(lambda _layer, _args, output: 2 * output)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)


class Checkpointed(nn.Module):
    """A convolution that keeps no activations, and runs again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize("build", [Doubled, Checkpointed])
def test_outputs_that_are_not_the_convolutions_own_keep_their_graph(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(5, 4, 6, 6, dtype=torch.float64)

    def gradients(passes: AbstractContextManager[Any]) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        with passes:
            outputs = model(leaf)
        (row,) = torch.autograd.grad(outputs, leaf, torch.ones_like(outputs), create_graph=True)
        return list(
            torch.autograd.grad(row.square().sum(), list(model.parameters()), allow_unused=True)
        )

    expected = gradients(nullcontext())
    with cheap_second_derivatives([model]):  # also while it runs again
        assert_close(gradients(nullcontext()), expected)
    assert_close(gradients(cheap_second_derivatives([model])), expected)


def test_a_kernel_changed_in_place_before_backward_is_noticed() -> None:
    layer, x = nn.Conv2d(4, 3, 3), torch.randn(5, 4, 6, 6, requires_grad=True)
    with cheap_second_derivatives([layer]):
        outputs = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


class Residual(nn.Module):
    """Convolutions with BatchNorm around which the input goes: no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("examples", [None, 3])
def test_a_step_with_the_penalty_is_that_of_pytorchs_graph(
    monkeypatch: pytest.MonkeyPatch, watched: bool, examples: int | None
) -> None:
    torch.manual_seed(0)
    model, x = Residual().double(), torch.randn(6, 4, 5, 5, dtype=torch.float64)

    def step(own: nn.Module) -> list[Tensor | None]:
        grokalign = gs.GrokAlign(weight=0.3, examples=examples)
        if watched:
            grokalign.start(own)
        (own(x).square().mean() + grokalign(own, x)).backward()
        grokalign.finish()
        return [p.grad for p in own.parameters()]

    found = step(copy.deepcopy(model))
    calls: list[Any] = []
    monkeypatch.setattr(OnLayer, "__call__", lambda *args: calls.append(args))
    expected = step(copy.deepcopy(model))
    assert calls
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_watched_model_can_be_copied() -> None:
    model, x = Residual(), torch.randn(6, 4, 5, 5)
    grokalign = gs.GrokAlign()
    grokalign.start(model)
    twin = copy.deepcopy(model)
    assert_close(twin(x), model(x))
    outputs = twin.conv(x.requires_grad_())
    assert outputs.grad_fn.name() not in OURS
