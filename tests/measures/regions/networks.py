"""Small networks of every supported kind, each with its exact twin's description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference import regions as exact


@dataclass
class Case:
    """A module, the shape of its input, and its steps for the exact twin."""

    model: nn.Module
    shape: tuple[int, ...]
    steps: list[Any]
    half_width: float = 2.0


def mlp(widths: Sequence[int], bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp_steps(model: nn.Sequential) -> list[Any]:
    steps: list[Any] = []
    for layer in model:
        if isinstance(layer, nn.Linear):
            steps.append(exact.dense(layer, (layer.in_features,)))
        else:
            steps.append(exact.relu(len(steps[-1].bias)))
    return steps


class ResidualNet(nn.Module):
    """Two residual blocks, one functional and in place, reshaping on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.inner = nn.Linear(5, 3, bias=False)
        self.outer = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x.view(x.size(0), -1)))
        h = h + self.outer(torch.relu(self.inner(h)))
        h += F.leaky_relu(self.norm(h), 0.2)
        return self.last(h)


class ConvNet(nn.Module):
    """Convolution, BatchNorm, pooling, a second convolution, and a head."""

    def __init__(self, pool: nn.Module, side: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.act = nn.ReLU(inplace=True)
        self.pool = pool
        with torch.no_grad():
            features = pool(torch.zeros(1, 2, side, side)).numel()
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.act(self.norm(self.conv(x)))).flatten(1))


class MaxMin(nn.Module):
    """Elementwise maximum, minimum with a constant, absolute value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.ceiling = nn.Parameter(torch.tensor([0.5, -0.25, 1.0, 0.75]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.minimum(torch.maximum(self.a(x), self.b(x)), self.ceiling).abs())


def settle_norms(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give BatchNorm layers running statistics that matter, then freeze them."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(16, *shape))
    return model.eval()


def residual_case() -> Case:
    model = settle_norms(ResidualNet(), (2, 2))
    first, inner, outer = (exact.dense(m, (w,)) for m, w in
                           ((model.first, 4), (model.inner, 5), (model.outer, 3)))  # fmt: skip
    norm = exact.dense(model.norm, (5,))
    leaky = exact.Kinked([0.0], [[0.2, 1.0]] * 5, [0.0, 0.0])
    block = exact.Residual([inner, exact.relu(3), outer])
    steps = [first, exact.relu(5), block, exact.Residual([norm, leaky])]
    return Case(model.float(), (2, 2), [*steps, exact.dense(model.last, (5,))])


def conv_case(pool: nn.Module, windows: list[list[int]] | None) -> Case:
    model = settle_norms(ConvNet(pool), (1, 4, 4))
    front = exact.dense(nn.Sequential(model.conv, model.norm), (1, 4, 4))
    if windows is None:
        middle: Any = exact.dense(nn.Sequential(pool, nn.Flatten()), (2, 4, 4))
    else:
        middle = exact.Max([[i + 16 * c for i in window] for c in range(2) for window in windows])
    head = exact.dense(model.head, (model.head.in_features,))
    return Case(model.float(), (1, 4, 4), [front, exact.relu(32), middle, head], half_width=0.6)


def conv1d_case() -> Case:
    conv, pool = nn.Conv1d(2, 3, 2, stride=2), nn.AvgPool1d(2, 1)
    prelu, tail = nn.PReLU(3), nn.Linear(6, 2, bias=False)
    prelu.weight.data = torch.tensor([0.5, -0.25, 0.125])
    model = nn.Sequential(conv, prelu, pool, nn.Flatten(), tail)
    kinked = exact.Kinked(
        [0.0], [[slope, 1.0] for slope in (0.5, -0.25, 0.125) for _ in range(3)], [0.0, 0.0]
    )
    steps = [
        exact.dense(conv, (2, 6)),
        kinked,
        exact.dense(nn.Sequential(pool, nn.Flatten()), (3, 3)),
        exact.dense(tail, (6,)),
    ]
    return Case(model.float(), (2, 6), steps, half_width=4.0)


def hard_case() -> Case:
    layers = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 1)
    model = nn.Sequential(
        layers[0],
        nn.Hardtanh(-0.5, 1.0),
        layers[1],
        nn.Hardsigmoid(),
        layers[2],
        nn.ReLU6(),
        layers[3],
    )
    with torch.no_grad():
        layers[0].weight.mul_(2)
        layers[1].weight.mul_(8)
        layers[2].weight.mul_(20)
    first, second, third, last = (exact.dense(m, (m.in_features,)) for m in layers)
    hard_tanh = exact.Kinked([-0.5, 1.0], [[0.0, 1.0, 0.0]] * 6, [-0.5, 0.0, 1.0])
    hard_sigmoid = exact.Kinked(
        [-3.0, 3.0], [[0.0, exact.Fraction(1, 6), 0.0]] * 5, [0.0, 0.5, 1.0]
    )
    six = exact.Kinked([0.0, 6.0], [[0.0, 1.0, 0.0]] * 4, [0.0, 0.0, 6.0])
    return Case(model.float(), (3,), [first, hard_tanh, second, hard_sigmoid, third, six, last])


def max_min_case() -> Case:
    model = MaxMin()
    both = nn.Linear(3, 8)
    both.weight.data = torch.cat([model.a.weight, model.b.weight]).detach()
    both.bias.data = torch.cat([model.a.bias, model.b.bias]).detach()
    # min(m, c) = -max(-m, -c), with the constants as extra entries.
    negated = exact.Affine(
        [[exact.Fraction(-int(i == j)) for j in range(4)] for i in range(4)]
        + [[exact.Fraction(0)] * 4] * 4,
        [exact.Fraction(0)] * 4 + [exact.Fraction(-float(c)) for c in model.ceiling.tolist()],
    )
    absolute = exact.Kinked([0.0], [[-1.0, 1.0]] * 4, [0.0, 0.0])
    pairs = exact.Max([[i, i + 4] for i in range(4)])
    steps = [exact.dense(both, (3,)), pairs, negated, pairs, absolute, exact.dense(model.out, (4,))]
    return Case(model.float(), (3,), steps)


class Shrink(nn.Module):
    """Soft shrinkage, as a module and as a function, with two widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.shrink = nn.Softshrink(0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.softshrink(self.b(self.shrink(self.a(x))), lambd=0.125))


def shrink_case() -> Case:
    model = Shrink()
    a, b, out = (exact.dense(m, (m.in_features,)) for m in (model.a, model.b, model.out))
    wide = exact.Kinked([-0.25, 0.25], [[1.0, 0.0, 1.0]] * 5, [0.25, 0.0, -0.25])
    narrow = exact.Kinked([-0.125, 0.125], [[1.0, 0.0, 1.0]] * 4, [0.125, 0.0, -0.125])
    return Case(model.float(), (3,), [a, wide, b, narrow, out])


def mlp_case() -> Case:
    model = mlp([3, 6, 5, 4, 2])
    return Case(model, (3,), mlp_steps(model))


SQUARES = [[r * 4 + c + i * 4 + j for i in (0, 1) for j in (0, 1)] for r in (0, 2) for c in (0, 2)]
# 3 x 3 windows at stride 2 with one row and column of padding, which never wins.
PADDED = [
    [
        i * 4 + j
        for i in range(max(0, r - 1), min(4, r + 2))
        for j in range(max(0, c - 1), min(4, c + 2))
    ]
    for r in (0, 2)
    for c in (0, 2)
]
# Adaptive pooling of 4 to 3: windows overlap by one.
ADAPTIVE = [[i * 4 + j for i in (r, r + 1) for j in (c, c + 1)] for r in range(3) for c in range(3)]

CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp_case,
    "residual": residual_case,
    "max pool": lambda: conv_case(nn.MaxPool2d(2), SQUARES),
    "padded max pool": lambda: conv_case(nn.MaxPool2d(3, 2, 1), PADDED),
    "adaptive max pool": lambda: conv_case(nn.AdaptiveMaxPool2d(3), ADAPTIVE),
    "average pool": lambda: conv_case(nn.AvgPool2d(2), None),
    "conv1d": conv1d_case,
    "hard": hard_case,
    "maximum and minimum": max_min_case,
    "soft shrink": shrink_case,
}
