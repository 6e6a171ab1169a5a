"""Norms and cosines over the whole range of a type, and what is rounding noise."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.magnitudes import cosines, norms, power_of_two, scaled
from grokscope.measures.sampled_geometry import sampled_geometry


@pytest.mark.parametrize("exponent", [-37, -23, -10, 0, 10, 19, 37])
def test_norms_and_cosines_at_every_size(exponent: int) -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.float64)
    small, other = (10.0**exponent * a).float(), b.float()
    assert_close(norms(small).double() / 10.0**exponent, a.norm(dim=1), rtol=1e-5, atol=0)
    assert_close(cosines(small, other), torch.cosine_similarity(a, b).float())


def test_scaling_is_exact() -> None:
    x = torch.randn(20, 9) * 1e-3
    divided, sizes = scaled(x)
    assert torch.equal(divided * sizes[:, None], x)
    assert bool(((divided.abs().amax(1) >= 1) & (divided.abs().amax(1) < 2)).all())
    assert torch.equal(power_of_two(torch.tensor([0.0, torch.inf, torch.nan])), torch.ones(3))


@pytest.mark.parametrize("scale", [1e-300, 1e-220, 1e-160, 1e160, 1e220, 1e300])
@pytest.mark.parametrize("chain", [True, False])
def test_double_precision_has_its_whole_range(scale: float, chain: bool) -> None:
    torch.manual_seed(0)
    model, x = gs.MLP(5, [8, 7], 3, seed=0).double(), torch.randn(6, 5).double()
    large = copy.deepcopy(model)
    with torch.no_grad():
        large[-1].weight.mul_(scale)
        large[-1].bias.mul_(scale)
    given = large if chain else lambda x: large(x)
    plain, found = gs.jacobian_geometry(model, x), gs.jacobian_geometry(given, x)
    for name in ("pc1", "alignment", "centroid_alignment"):
        assert_close(getattr(found, name), getattr(plain, name))
    assert_close(found.norm / scale, plain.norm)
    assert_close(gs.jacobian_norm(given, x) / scale, plain.norm)
    assert_close(
        gs.robust_radius(given, x, torch.arange(6) % 3),
        gs.robust_radius(model, x, torch.arange(6) % 3),
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e20])
@pytest.mark.parametrize("chain", [True, False])
def test_measures_do_not_see_the_outputs_scale(scale: float, chain: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    x = torch.randn(4, 6)
    right = gs.jacobian_geometry(model.double(), x.double())
    model.float()
    with torch.no_grad():
        model[2].weight.mul_(scale)
    function = model if chain else lambda x: model(x)
    found = gs.jacobian_geometry(function, x)
    assert_close(found.norm / scale, right.norm.float(), rtol=1e-4, atol=0)
    for name in ("alignment", "pc1", "centroid_alignment"):
        assert_close(getattr(found, name), getattr(right, name).float(), rtol=1e-4, atol=1e-5)
    assert_close(gs.centroid_alignment(function, x), found.centroid_alignment)


def test_rows_of_very_different_size_have_their_own_cosines() -> None:
    weight = torch.tensor([[3.0, 4.0], [3e-25, 4e-25]])
    for model in (nn.Linear(2, 2, bias=False), None):
        function = (lambda x: x @ weight.T) if model is None else model
        if model is not None:
            model.weight = nn.Parameter(weight)
        found = gs.jacobian_alignment(function, torch.tensor([[3e-20, 4e-20]]))
        assert_close(found, torch.ones(1, 2))


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("gap", [1.0, 6.0])
def test_a_centroid_behind_a_softmax_is_noise(n: int, gap: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Softmax(1)), torch.randn(n, 6)
    with torch.no_grad():
        model[0].bias[0] += gap
    with pytest.warns(RuntimeWarning, match="rounding noise.*take the logits"):
        found = gs.centroid_alignment(model, x)
    assert bool((found.isnan() | (found == 0)).all())  # of some nothing is left at all
    assert not gs.centroid_alignment(model[0], x).isnan().any()


def test_opposite_logits_are_noise_and_a_level_set_is_not() -> None:
    x = torch.randn(8, 6)
    weight = torch.randn(6)
    opposite = lambda x: torch.stack([x @ weight, -(x @ weight) * (1 + 1e-7)], 1)  # noqa: E731
    with pytest.warns(RuntimeWarning, match="rounding noise"):
        assert bool(gs.jacobian_geometry(opposite, x).centroid_alignment.isnan().all())
    on_sphere = x / x.norm(dim=1, keepdim=True)
    squares = lambda x: torch.stack([x[:, :3].square().sum(1), x[:, 3:].square().sum(1)], 1)  # noqa: E731
    assert_close(gs.centroid_alignment(squares, on_sphere), torch.ones(8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("chunk_size", [None, 3, 1])
def test_noise_is_told_in_every_precision(dtype: torch.dtype, chunk_size: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 20).to(dtype)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5), nn.Softmax(1)).to(dtype)
    for found in (
        lambda: gs.centroid_alignment(model, x, chunk_size=chunk_size),
        lambda: gs.jacobian_geometry(model, x, chunk_size=chunk_size).centroid_alignment,
        lambda: sampled_geometry(model, x, 3, chunk_size=chunk_size).centroid_alignment,
    ):
        with pytest.warns(RuntimeWarning, match="rounding noise"):
            cosines = found()
        assert bool((cosines.isnan() | (cosines == 0)).all())
    with pytest.warns(RuntimeWarning, match="rounding noise"):
        gs.empirical_ntk(model, x, reduce="sum")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("chunk_size", [None, 3, 1])
def test_rows_that_nearly_cancel_are_no_noise(dtype: torch.dtype, chunk_size: int | None) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64), torch.randn(8, 20).to(dtype)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 2)).to(dtype)
    model[2].weight.data = torch.stack([weight + 0.05 * torch.randn(64), -weight]).to(dtype)
    right = gs.centroid_alignment(copy.deepcopy(model).double(), x.double()).float()
    for found in (
        gs.centroid_alignment(model, x, chunk_size=chunk_size),
        gs.jacobian_geometry(model, x, chunk_size=chunk_size).centroid_alignment,
        sampled_geometry(model, x, 3, chunk_size=chunk_size).centroid_alignment,
    ):
        assert_close(found, right, rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    model, x = gs.MLP(5, [8], 3, seed=0), torch.randn(16, 5).to(dtype)
    half = gs.MLP(5, [8], 3, seed=0).to(dtype)
    model.load_state_dict(half.state_dict())
    for given in (half, lambda x: half(x)):
        found, right = gs.jacobian_geometry(given, x), gs.jacobian_geometry(model, x.float())
        for name in ("norm", "pc1", "alignment", "centroid_alignment"):
            assert getattr(found, name).dtype == torch.float32
            assert_close(getattr(found, name), getattr(right, name), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_and_numbers_of_any_integer_type(dtype: torch.dtype) -> None:
    k = 2
    x, y = torch.randn(10, 4), torch.arange(10) % k
    model = nn.Linear(4, k)
    assert_close(gs.robust_radius(model, x, y.to(dtype)), gs.robust_radius(model, x, y))
    generator = torch.Generator().manual_seed(0)
    noisy = gs.noise_accuracy(model, x, y.to(dtype), 0.5, generator=generator)
    assert noisy == gs.noise_accuracy(model, x, y, 0.5, generator=torch.Generator().manual_seed(0))
    assert (
        gs.linear_probe(x, y.to(dtype), x, y.to(dtype)).accuracy == gs.linear_probe(x, y, x, y)[0]
    )
    kernel = x @ x.T
    assert gs.kernel_alignment(kernel, y.to(dtype)) == gs.kernel_alignment(kernel, y)
    assert_close(gs.gini(y.to(dtype)), gs.gini(y.float()))


def test_kernels_of_integers_have_real_distances() -> None:
    a, b = torch.tensor([[3, 1], [1, 2]]), torch.tensor([[2, 1], [1, 3]])
    assert_close(gs.kernel_distance(a, b), gs.kernel_distance(a.float(), b.float()))
    assert gs.kernel_distance_matrix([a, b])[0, 1] > 0.05
