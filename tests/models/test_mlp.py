"""The MLP: its modules, its initialization, its scales."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from grokscope.measures.chain import chain_of
from grokscope.models import ACTIVATIONS, MLP, MODELS, Scale, build


def test_it_is_a_sequential_of_plain_modules() -> None:
    model = MLP(6, [5, 4], 3)
    kinds = [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(module) for module in model] == kinds
    assert type(model).forward is nn.Sequential.forward
    names = ["flatten", "linear1", "activation1", "linear2", "activation2", "linear3"]
    assert list(dict(model.named_children())) == names
    shapes = [(5, 6), (5,), (4, 5), (4,), (3, 4), (3,)]
    assert [tuple(parameter.shape) for parameter in model.parameters()] == shapes


def test_the_measures_recognize_it_as_a_chain_of_layers() -> None:
    chain = chain_of(MLP(12, [5, 4], 3), torch.rand(7, 1, 4, 3))
    assert chain is not None
    assert [stage.linear.out_features for stage in chain.stages] == [5, 4, 3]


def test_images_are_flattened() -> None:
    model, x = MLP(12, [5], 3, seed=0), torch.rand(7, 1, 4, 3)
    assert torch.equal(model(x), model(x.flatten(1)))
    assert model(x).shape == (7, 3)


def test_a_seed_is_pytorchs_default_initialization() -> None:
    torch.manual_seed(11)
    default = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    seeded = MLP(6, [5], 3, seed=11)
    for ours, theirs in zip(seeded.parameters(), default.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.manual_seed(11)
    for ours, theirs in zip(MLP(6, [5], 3).parameters(), default.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_seed_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    MLP(6, [5], 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TypeError):
        MLP(6, [5], 3, seed=1, activation=nn.Threshold)
    assert torch.equal(torch.get_rng_state(), before)
    MLP(6, [5], 3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_weight_scale_multiplies_every_parameter() -> None:
    plain, scaled = MLP(6, [5, 4], 3, seed=2), MLP(6, [5, 4], 3, weight_scale=8.0, seed=2)
    for one, eight in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(8 * one, eight)
        assert eight.requires_grad
        assert eight.is_leaf


def test_output_scale_multiplies_the_outputs() -> None:
    x = torch.rand(7, 6)
    plain, scaled = MLP(6, [5], 3, seed=2), MLP(6, [5], 3, output_scale=0.25, seed=2)
    assert torch.equal(scaled(x), 0.25 * plain(x))
    assert isinstance(scaled[-1], Scale)
    assert "factor=0.25" in repr(scaled)
    assert scaled.state_dict().keys() == plain.state_dict().keys()


def test_a_scalar_output_has_no_output_axis() -> None:
    x = torch.rand(7, 6)
    scalar, column = (MLP(6, [5], k, output_scale=2.0, seed=4) for k in (None, 1))
    assert scalar(x).shape == (7,)
    assert scalar(x[:1]).shape == (1,)
    assert torch.equal(scalar(x), column(x)[:, 0])


def test_without_bias_it_is_homogeneous() -> None:
    model, x = MLP(6, [5, 4], 3, bias=False, seed=0).double(), torch.rand(7, 6).double()
    assert len(list(model.parameters())) == 3
    torch.testing.assert_close(model(3 * x), 3 * model(x))


def test_no_hidden_layer_is_a_linear_model() -> None:
    model, x = MLP(6, [], 3, seed=0), torch.rand(7, 6)
    torch.testing.assert_close(model(x), x @ model.linear1.weight.T + model.linear1.bias)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_used(activation: str) -> None:
    model, x = MLP(6, [5], 3, activation=activation, seed=0), torch.randn(7, 6)
    hidden = ACTIVATIONS[activation]()(model.linear1(x))
    torch.testing.assert_close(model(x), model.linear2(hidden))


def test_an_activation_may_be_a_class() -> None:
    assert isinstance(MLP(6, [5], 3, activation=nn.Mish)[2], nn.Mish)


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        ((0, [5], 3), {}, "in_features must be a positive integer: got 0"),
        ((6, [5, -1], 3), {}, r"widths\[1\] must be a positive integer: got -1"),
        ((6, [5], 0), {}, "out_features must be a positive integer: got 0"),
        ((6, [5], 3), {"activation": "relyu"}, "unknown activation 'relyu'; did you mean 'relu'"),
        ((6, [5], 3), {"weight_scale": 0.0}, "weight_scale must be a positive number: got 0.0"),
        ((6, [5], 3), {"output_scale": float("nan")}, "output_scale must be a finite number"),
    ],
)
def test_mistakes_are_named(arguments: tuple, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MLP(*arguments, **options)


def test_build_sizes_a_model_for_its_data() -> None:
    model = build("mlp", (1, 4, 3), 3, widths=[5], weight_scale=2.0, seed=3)
    expected = MLP(12, [5], 3, weight_scale=2.0, seed=3)
    x = torch.rand(7, 1, 4, 3)
    assert torch.equal(model(x), expected(x))
    assert build("mlp", (12,), None, widths=())(x).shape == (7,)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("mpl", {"widths": [5]}, "unknown model 'mpl'; did you mean 'mlp'"),
        ("mlp", {"width": [5]}, "unknown option of mlp 'width'; did you mean 'widths'"),
        ("mlp", {"widths": [5], "in_features": 3}, "unknown option of mlp 'in_features'"),
        ("mlp", {}, "mlp needs the option 'widths'"),
    ],
)
def test_build_names_mistakes(name: str, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build(name, (12,), 3, **options)


def test_every_model_is_callable_by_name() -> None:
    assert "mlp" in MODELS


def test_a_seed_means_the_same_numbers_in_many_threads() -> None:
    def weights(seed: int) -> Tensor:
        return torch.cat([p.flatten() for p in MLP(300, [200], 5, seed=seed).parameters()])

    alone = [weights(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = list(pool.map(weights, range(8)))
            assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
