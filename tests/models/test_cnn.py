"""The CNN: its modules, sizes, scales and normalization."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.models import build


def test_it_is_a_sequential_of_plain_modules_with_names() -> None:
    model = gs.CNN((3, 16, 16), [4, 5, 6, 7], 3, hidden=[9], bias=False, batch_norm=True)
    assert type(model).forward is nn.Sequential.forward
    assert list(dict(model.named_children())) == [
        "conv1", "batch_norm1", "activation1", "conv2", "batch_norm2", "activation2",
        "conv3", "batch_norm3", "activation3", "conv4", "batch_norm4", "activation4",
        "flatten", "linear1", "activation5", "linear2",
    ]  # fmt: skip
    weights = [model.conv1, model.conv2, model.conv3, model.conv4, model.linear1, model.linear2]
    assert all(layer.bias is None for layer in weights)
    assert [layer.stride for layer in weights[:4]] == [(2, 2), (1, 1), (2, 2), (1, 1)]
    assert model.linear1.in_features == 7 * 4 * 4


@pytest.mark.parametrize("downsample", ["stride", "max", "average", "none"])
@pytest.mark.parametrize(("kernel", "stage"), [(3, 2), (2, 1), (4, 3), (5, 2)])
def test_the_linear_layer_fits_what_the_convolutions_leave(
    downsample: str, kernel: int, stage: int
) -> None:
    """An even kernel adds a row, odd sizes are rounded: the sizes are those of torch."""
    model = gs.CNN((2, 19, 14), [3, 4, 5], 6, kernel=kernel, stage=stage, downsample=downsample)
    assert model(torch.randn(7, 2, 19, 14)).shape == (7, 6)
    pools = [module for module in model if isinstance(module, nn.MaxPool2d | nn.AvgPool2d)]
    assert len(pools) == (-(-3 // stage) if downsample in ("max", "average") else 0)


def test_a_seed_is_pytorchs_default_initialization_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(11)
    default = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 1, 1), nn.Linear(80, 3))
    state = torch.get_rng_state()
    seeded = gs.CNN((3, 8, 8), [4, 5], 3, seed=11)
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(seeded.parameters(), default.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weight_scale_multiplies_weights_and_biases_but_not_batch_norm() -> None:
    plain, scaled = (
        gs.CNN((3, 8, 8), [4, 5], 3, hidden=[6], batch_norm=True, weight_scale=scale, seed=2)
        for scale in (1.0, 8.0)
    )
    for (name, one), eight in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        assert torch.equal((1 if "batch_norm" in name else 8) * one, eight)


def test_output_scale_and_a_scalar_output() -> None:
    x = torch.rand(7, 3, 8, 8)
    plain = gs.CNN((3, 8, 8), [4], 1, seed=2)
    scalar = gs.CNN((3, 8, 8), [4], None, output_scale=0.25, seed=2)
    assert torch.equal(scalar(x), 0.25 * plain(x)[:, 0])


@pytest.mark.parametrize(
    ("mean", "std"), [(0.4, 0.25), ([0.1, 0.2, 0.4], [0.5, 0.25, 1.0])], ids=["one", "each"]
)
def test_normalization_inside_is_normalization_of_the_data(
    mean: float | list[float], std: float | list[float]
) -> None:
    plain = gs.CNN((3, 8, 8), [4, 5], 3, seed=2).double()
    inside = gs.CNN((3, 8, 8), [4, 5], 3, mean=mean, std=std, seed=2).double()
    x = torch.rand(7, 3, 8, 8).double()
    shift, spread = (torch.as_tensor(v).float().double().reshape(-1, 1, 1) for v in (mean, std))
    torch.testing.assert_close(inside(x), plain((x - shift) / spread))
    assert len(list(inside.parameters())) == len(list(plain.parameters()))
    assert "mean=[" in repr(inside.normalize)


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        (((784,), [4], 3), {}, "in_shape must be channels, height and width"),
        (((3, 8, 8), [], 3), {}, "widths is empty"),
        (((3, 8, 8), [4, 0], 3), {}, r"widths\[1\] must be a positive integer: got 0"),
        (((3, 8, 8), [4], 3), {"hidden": [0]}, r"hidden\[0\] must be a positive integer"),
        (((3, 8, 8), [4], 3), {"downsample": "strides"}, "unknown downsample 'strides'; did you"),
        (((3, 4, 4), [4] * 4, 3), {"stage": 1, "downsample": "max"}, "nothing is left"),
        (((3, 8, 8), [4], 3), {"mean": 0.4}, "mean and std go together"),
        (((3, 8, 8), [4], 3), {"mean": [0.1, 0.2], "std": [1.0, 1.0]}, r"each of 3 channel\(s\)"),
        (((3, 8, 8), [4], 3), {"mean": 0.1, "std": [1.0, 1.0, 1.0]}, "a number each"),
        (((3, 8, 8), [4], 3), {"mean": 0.1, "std": 0.0}, "std must be positive"),
        (((3, 8, 8), [4], 3), {"weight_scale": 0.0}, "weight_scale must be a positive number"),
        # one side is left of it, and no picture
        (((1, 8, 2), [4, 4, 4], 3), {"stage": 1, "downsample": "max"}, "left of a 8 x 2 picture"),
    ],
)
def test_mistakes_are_named(arguments: tuple, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        gs.CNN(*arguments, **options)


def test_build_sizes_it_for_its_data() -> None:
    model = build("cnn", (3, 8, 8), 3, widths=[4, 5], seed=3)
    x = torch.rand(7, 3, 8, 8)
    assert torch.equal(model(x), gs.CNN((3, 8, 8), [4, 5], 3, seed=3)(x))
    with pytest.raises(ValueError, match="unknown option of cnn 'width'; did you mean 'widths'"):
        build("cnn", (3, 8, 8), 3, width=[4])


def test_measures_and_regions_take_it() -> None:
    model = gs.CNN((1, 6, 6), [3, 4], 3, batch_norm=True, mean=0.5, std=0.2, seed=0).double()
    model = model.eval()
    x = torch.rand(5, 1, 6, 6).double()
    a, b = gs.affine_map(model, x)
    torch.testing.assert_close((a * x[:, None]).flatten(2).sum(2) + b, model(x))
    assert gs.empirical_ntk(model, x, reduce="trace").shape == (5, 5)
    plain = gs.CNN((1, 6, 6), [3, 4], 3, batch_norm=True, seed=0).double().eval()
    assert len(gs.linear_regions(plain, gs.Slice.through(*x[:3], half_width=1.0))) > 1
