"""What cannot be trained as one is trained one after another, and it is said why."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.methods import Method, Networks
from tests.seeds.small import DATA, SEEDS, Build, alone, mlp, together

SETTINGS: dict[str, Any] = {"lr": 1e-2, "batch_size": 12, "max_steps": 6, "device": "cpu"}


ONE = mlp(0)


class Decay(Method):
    """A method of one's own."""

    def __init__(self, factor: float = 0.99) -> None:
        self.factor = factor

    def filter_gradients(self, step: int, networks: Networks) -> None:
        for _, _, gradient in networks.gradients():
            gradient *= self.factor**step


class OwnGrokAlign(gs.GrokAlign):
    pass


class Offset(nn.Module):
    """Depends on its seed in what is no parameter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(6, 3)
        self.offset = float(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + self.offset)


class Branching(Offset):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(x)
        return hidden if float(hidden.detach().mean()) > 0 else -hidden


def sequential(*layers: nn.Module) -> Build:
    """The same layers for every seed, initialized anew."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made = [type(layer)(*_arguments(layer)) for layer in layers]
        return nn.Sequential(*made)

    return build


def _arguments(layer: nn.Module) -> list[Any]:
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, nn.BatchNorm1d):
        return [layer.num_features]
    return [layer.p] if isinstance(layer, nn.Dropout) else []


def hooked(seed: int) -> nn.Module:
    model = mlp(seed)
    model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def wider(seed: int) -> nn.Module:
    return gs.MLP(6, [9 + seed], 3, seed=seed)


def part_frozen(seed: int) -> nn.Module:
    return mlp(seed).requires_grad_(True) if seed else _frozen(mlp(seed))


def _frozen(model: nn.Module) -> nn.Module:
    model[1].requires_grad_(False)
    return model


CASES: dict[str, tuple[Build, Any, str]] = {
    "dropout": (
        sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)),
        None,
        "the networks draw random numbers in training",
    ),
    "batch norm": (
        sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        None,
        "training changes 1.num_batches_tracked",
    ),
    "hooks": (hooked, None, "1 has hooks|linear1 has hooks"),
    "width": (wider, None, "differ in their architecture"),
    "frozen": (part_frozen, None, "in which are trained"),
    "attribute": (Offset, None, "give other outputs in a stack"),
    "branches": (Branching, None, "Branching or its loss does not run on a stack"),
    "setting": (
        mlp,
        lambda seed: [gs.GrokAlign(0.1 * (seed + 1), seed=seed)],
        "weight of GrokAlign differs",
    ),
    "number": (
        mlp,
        lambda seed: [gs.GrokAlign(seed=seed)] * (1 if seed else 0),
        "the networks have different methods",
    ),
}


@pytest.mark.parametrize(("build", "methods", "reason"), CASES.values(), ids=CASES)
def test_one_after_another_with_a_reason(
    caplog: pytest.LogCaptureFixture, build: Build, methods: Any, reason: str
) -> None:
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING, "grokscope"):
        ours = gs.fit_seeds(build, DATA, SEEDS, methods=methods, **SETTINGS)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    said = caplog.records[0].getMessage()
    assert said.startswith("training 3 seeds one after another: ")
    assert "\n" not in said
    with pytest.raises(ValueError, match=reason):
        together(build, methods=methods, **SETTINGS)
    assert [result.steps for result in ours] == [6] * 3
    if build in (mlp, wider):
        theirs = alone(build, methods, **SETTINGS)
        for one, other in zip(ours, theirs, strict=True):
            assert one.history.rows == other.history.rows


@pytest.mark.parametrize(
    "make", [lambda seed: [Decay()], lambda seed: [OwnGrokAlign(0.01, seed=seed)]]
)
def test_a_method_of_ones_own_joins(make: Any) -> None:
    settings = {**SETTINGS, "methods": make, "dtype": torch.float64}
    ours, theirs = together(mlp, **settings), alone(mlp, **settings)
    plain = alone(mlp, **{**settings, "methods": None})
    assert [result.steps for result in ours] == [6] * 3
    for one, other, without in zip(ours, theirs, plain, strict=True):
        for own, expected in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-10)
        assert not torch.equal(other.model[1].weight, without.model[1].weight)


def test_some_networks_are_no_slower_alone_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    def convolution(seed: int) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)
        )

    def large(seed: int) -> nn.Module:
        return gs.MLP(6, [320, 320], 3, seed=seed)

    settings = {**SETTINGS, "max_steps": 1}
    for build in (convolution, large, mlp):
        gs.fit_seeds(build, DATA, SEEDS, **settings)
    for build in (convolution, large):
        together(build, **settings)
    one_after_another = "training 3 seeds one after another: on a CPU "
    assert [record.getMessage() for record in caplog.records] == [
        f"{one_after_another}only perceptrons are faster together",
        f"{one_after_another}networks of more than 100,000 parameters are not faster together",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "seeds must all be different"),
        ({"vectorize": "yes"}, 'vectorize must be True, False or "auto"'),
        ({"lrr": 1}, "unknown setting of fit_seeds 'lrr'; did you mean 'lr'"),
        ({"build": lambda seed: ONE}, "gave one network twice"),
        ({"max_steps": 0}, "max_steps must be a positive integer"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'"),
        ({"optimizer": torch.optim.SGD(mlp(0).parameters(), lr=0.1)}, "optimizer must be a name"),
        ({"data": DATA[:2]}, "got 2 tensors"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("vectorize", ["auto", False])
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], said: str, vectorize: bool | str
) -> None:
    given = {"build": mlp, "data": DATA, "seeds": SEEDS, "vectorize": vectorize, **arguments}
    with pytest.raises(ValueError, match=said):
        gs.fit_seeds(**given, **({} if "max_steps" in given else {"max_steps": 2}))


def test_one_seed_is_fit() -> None:
    (ours,) = gs.fit_seeds(mlp, DATA, [4], **SETTINGS)
    theirs = gs.fit(mlp(4), DATA, seed=4, **SETTINGS)
    assert ours.history.rows == theirs.history.rows
