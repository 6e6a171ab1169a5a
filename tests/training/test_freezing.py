"""Parameters that are not trained: by name, until training is over, alone and in a stack."""

from __future__ import annotations

import copy

import pytest
import torch

import grokscope as gs
from tests.seeds.small import DATA, alone, assert_same, mlp, together


def test_named_parameters_and_modules_stay_as_they_are() -> None:
    model = mlp(0)
    model.linear2.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    gs.fit(model, DATA, lr=0.1, weight_decay=0.5, max_steps=5, freeze=["linear1.weight", "linear3"])
    unchanged = [name for name, value in model.state_dict().items() if value.equal(before[name])]
    assert unchanged == ["linear1.weight", "linear2.bias", "linear3.weight", "linear3.bias"]
    trained = [name for name, own in model.named_parameters() if own.requires_grad]
    assert trained == [name for name in before if name != "linear2.bias"]


def test_they_are_trainable_again_after_an_error() -> None:
    model = mlp(0)
    with pytest.raises(ValueError, match="no parameter to train"):
        gs.fit(model, DATA, freeze=["linear1", "linear2", "linear3"])
    assert all(own.requires_grad for own in model.parameters())


@pytest.mark.parametrize("name", ["linear", "activation1", ""])
def test_a_name_of_nothing_that_is_trained_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"freeze: unknown parameter or module '{name}'"):
        gs.fit(mlp(0), DATA, freeze=["linear1", name])


def test_a_stack_trains_as_its_networks_alone() -> None:
    settings = {"lr": 0.05, "max_steps": 20, "freeze": ["linear2"], "dtype": torch.float64}
    assert_same(together(mlp, **settings), alone(mlp, **settings))


def test_transformers_in_a_stack_are_penalized_at_their_own_embeddings() -> None:
    """With the settings of modular addition: embeddings frozen, the loss in float64."""
    data = gs.load_data("modular", modulus=5, encoding="tokens", equals=True, train_fraction=0.6)

    def build(seed: int) -> gs.Transformer:
        return gs.Transformer(5, d_model=8, num_heads=2, d_mlp=6, seed=seed)

    settings = {
        "data": data,
        "methods": lambda seed: [gs.GrokAlign(0.05, squared=False, seed=seed)],
        "lr": 0.01,
        "warmup": 3,
        "max_steps": 15,
        "freeze": ["unembed"],
        "loss_in_float64": True,
        "dtype": torch.float64,
        "device": "cpu",
    }
    assert_same(together(build, **settings), alone(build, **settings))
