"""A batch is what it was after a measure, also of a model that writes into what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs

LABELS = torch.arange(8) % 3


class Shifting(nn.Module):
    """Centers its input in place."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.sub_(0.5).div_(2))


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def doubled(_module: nn.Module, args: tuple[Tensor]) -> None:
    args[0].mul_(2)


def pre_hooked() -> nn.Module:
    model = nn.Sequential(nn.Identity(), body())
    model.register_forward_pre_hook(doubled)
    return model


# name -> a model that changes the batch it is called on
WRITERS: dict[str, Callable[[], nn.Module]] = {
    "own code": lambda: Shifting(body()),
    "a layer in place": lambda: nn.Sequential(nn.ReLU(inplace=True), body()),
    "a hook": pre_hooked,
    "a view": lambda: gs.View(body(), lambda m, x: m(x.tanh_())),
    "a view of a function": lambda: gs.View(lambda x: body()(x.mul_(2))),
    "a view within": lambda: nn.Sequential(gs.View(nn.ReLU(inplace=True)), body()),
    "traced": lambda: torch.fx.symbolic_trace(Shifting(body())),
    "scripted": lambda: torch.jit.script(Shifting(body())),
}


class Copying(nn.Module):
    """The same function, which leaves its input alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.clone())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def row(model: nn.Module, x: Tensor) -> dict[str, Any]:
    found = gs.Monitor(model, probe=(x, LABELS), exact=True).step(0)
    assert found is not None
    return {name: value for name, value in found.items() if name in MEASURED}


def attacked(model: nn.Module, x: Tensor, attack: str) -> float:
    return gs.robust_accuracy(model, x, LABELS, attack, eps=0.1, bounds=None, steps=3)


MEASURED = ("loss", "accuracy", "centroid_alignment", "jacobian_norm")
MEASURES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "jacobian": gs.input_jacobian,
    "radius": lambda model, x: gs.robust_radius(model, x, LABELS),
    "noise": lambda m, x: gs.noise_accuracy(m, x, LABELS, [0.0, 0.5], generator=seeded()),
    "attack": lambda m, x: attacked(m, x, "pgd"),
    "stronger attack": lambda m, x: attacked(m, x, "apgd"),
    "adversarial inputs": lambda m, x: gs.adversarial_inputs(m, x, LABELS, eps=0.1),
    "penalty": lambda m, x: gs.jacobian_penalty(m, x, projections=None),
    "monitor": row,
}
OF_LAYERS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "activations": lambda m, x: gs.layer_activations(m, x, [""])[""],
    "activations in chunks": lambda m, x: gs.layer_activations(m, x, [""], chunk_size=3)[""],
    "streamed": lambda m, x: dict(gs.stream_layer_activations(m, x, [""]))[""],
    "radii": lambda m, x: gs.layer_radii(m, x, [""]),
    "kernel": gs.empirical_ntk,
    "kernel in chunks": lambda m, x: gs.empirical_ntk(m, x, chunk_size=3, check=False),
    "trace": lambda m, x: gs.empirical_ntk(m, x, reduce="trace"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize("measure", MEASURES | OF_LAYERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_batch_stays_and_what_is_measured_is_of_it(writer: str, measure: str) -> None:
    if measure in OF_LAYERS and writer in ("scripted", "a view of a function"):
        return  # which have no layers or parameters
    model = WRITERS[writer]()
    x = torch.randn(8, 4, dtype=torch.float64, generator=seeded())
    before = x.clone()
    with torch.no_grad():
        model(x)
    assert not torch.equal(x, before)
    x = before.clone()
    found = (MEASURES | OF_LAYERS)[measure](model, x)
    assert torch.equal(x, before)
    assert_close(found, (MEASURES | OF_LAYERS)[measure](Copying(model), x))


def test_training_on_a_whole_data_set_leaves_it_alone() -> None:
    x = torch.randn(8, 4, dtype=torch.float64, generator=seeded())
    data = gs.Dataset("own", x.clone(), LABELS, x.clone(), LABELS, num_classes=3)
    fitted = [
        gs.fit(model, data, max_steps=5, batch_size=None, lr=0.1, optimizer="sgd").history
        for model in (Shifting(body()), Copying(Shifting(body())))
    ]
    assert torch.equal(data.train_x, x)
    assert torch.equal(data.test_x, x)
    assert_close(*(history["train_loss"] for history in fitted))
