"""Adversarial training: how large perturbations are, where they point, what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import grokscope as gs
from grokscope.methods import OneNetwork
from grokscope.training.objective import NetworksObjective, Objective


def network() -> nn.Module:
    torch.manual_seed(5)
    layers = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 4)
    return nn.Sequential(*layers)


def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
    """With the leading axis of one network."""
    return tuple(tensor.unsqueeze(0) for tensor in tensors)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(50, 6, generator=generator), torch.arange(50) % 4


def test_noise_is_gaussian_of_the_size() -> None:
    x = torch.full((400, 100), 3.0).double()
    state = torch.get_rng_state()
    noise = gs.noisy_inputs(x, 0.2, torch.Generator().manual_seed(0)) - x
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(noise.std().item(), 0.2, rtol=0.02, atol=0)
    assert abs(noise.mean().item()) < 0.005
    assert_close((noise.abs() < 0.2).double().mean().item(), 0.6827, atol=0.01, rtol=0)


def test_adversarial_inputs_go_up_the_loss_of_each_example() -> None:
    model, (x, y) = network().double().eval(), batch()
    x = x.double()
    moved = gs.adversarial_inputs(model, x, y, 1e-4)
    step = 1e-6

    def losses(inputs: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), y, reduction="none")

    with torch.no_grad():
        for feature in range(6):
            shift = torch.zeros(6).double()
            shift[feature] = step
            slope = (losses(x + shift) - losses(x - shift)) / (2 * step)
            assert_close(moved[:, feature] - x[:, feature], 1e-4 * slope.sign())
        assert (losses(moved) > losses(x)).all()


def test_the_model_is_left_as_it_was() -> None:
    model, (x, y) = network(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        gs.adversarial_inputs(model, x, y, 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="model does not run on x"):
        gs.adversarial_inputs(model, x[:, :2], y, 0.1)
    assert model.training


@pytest.mark.parametrize(
    ("schedule", "floor", "sizes"),
    [("accuracy", 0.0, [0.0, 0.2, 0.4]), ("error", 0.1, [0.4, 0.2, 0.1])],
)
def test_the_size_follows_the_accuracy_of_the_last_batch(
    schedule: str, floor: float, sizes: list[float]
) -> None:
    networks, (x, y) = OneNetwork(network().eval()), whole(*batch())
    method = gs.AdversarialTraining(0.4, "fgsm", schedule, floor)
    loss, right = NetworksObjective(Objective("cross_entropy")), F.one_hot(y, 4).float()
    for size, share in zip(sizes, [0.5, 1.0, 1.0], strict=True):
        found = method.perturb(1, networks, x, y, loss)
        moved = (found - x).abs()
        assert_close(moved, torch.where(moved > 0, size, 0.0), atol=1e-6, rtol=0)
        outputs = torch.where(torch.arange(50).unsqueeze(1) < 50 * share, right, -right)
        method.penalty(1, networks, found, outputs)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_accuracy_is_told_from_labels_and_one_hot_targets(loss: str) -> None:
    objective, (x, y) = Objective(loss), batch()
    model = network()
    outputs = 0.4 * F.one_hot(torch.where(torch.arange(50) < 20, y, (y + 1) % 4), 4).float()
    method = gs.AdversarialTraining(1.0)
    networks, loss = OneNetwork(model), NetworksObjective(objective)
    method.perturb(1, networks, *whole(x, objective.targets(y, outputs)), loss)
    method.penalty(1, networks, *whole(x, outputs))
    assert_close(method.state_dict()["accuracy"].item(), 0.4)


@pytest.mark.parametrize(
    ("loss", "scores", "accuracy"),
    [("mse", [0.4, 0.6, 0.6, 0.7], 0.75), ("binary_cross_entropy", [-0.4, 0.4, 0.4, 0.6], 0.75)],
)
def test_one_output_is_judged_as_the_loss_does(
    loss: str, scores: list[float], accuracy: float
) -> None:
    objective, x = Objective(loss), torch.randn(4, 6)
    y, outputs = torch.tensor([0, 1, 1, 0]), torch.tensor(scores).unsqueeze(1)
    method = gs.AdversarialTraining(1.0)
    networks, loss = OneNetwork(network()), NetworksObjective(objective)
    method.perturb(1, networks, *whole(x, objective.targets(y, outputs)), loss)
    method.penalty(1, networks, *whole(x, outputs))
    assert method.state_dict()["accuracy"].item() == accuracy


def test_size_zero_returns_the_inputs_themselves() -> None:
    x, y = whole(*batch())
    networks, loss = OneNetwork(network()), NetworksObjective(Objective("cross_entropy"))
    for attack in ("noise", "fgsm"):
        method = gs.AdversarialTraining(0.0, attack)
        assert method.perturb(1, networks, x, y, loss) is x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -1.0}, "eps must be 0 or positive, and finite: got -1.0"),
        ({"attack": "gradient"}, "attack must be 'noise' or 'fgsm': got 'gradient'"),
        ({"schedule": "loss"}, "schedule must be 'accuracy' or 'error': got 'loss'"),
        ({"floor": 0.1}, "floor is for schedule='error': got 0.1 with schedule='accuracy'"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gs.AdversarialTraining(**options)
