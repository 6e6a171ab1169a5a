"""Robust radius and accuracy under noise, against slow twins and closed forms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from tests.measures.networks import NETWORKS, Network
from tests.reference import robustness as slow


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request: pytest.FixtureRequest) -> Network:
    return request.param()


def labels_for(model, x: Tensor) -> Tensor:
    k = model(x.clone()).reshape(len(x), -1).shape[1]
    return torch.arange(len(x)) % max(k, 2)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_radius_equals_the_slow_twin(network: Network, chunk_size: int | None) -> None:
    model, x = network
    y = labels_for(model, x)
    a, b = gs.affine_map(model, x)
    a = a.flatten(2)
    if a.shape[1] == 1:  # one output f is two, f and 0
        a, b = torch.cat([0 * a, a], dim=1), torch.cat([0 * b, b], dim=1)
    expected = [slow.radius(a[i], b[i], x[i].flatten(), int(y[i])) for i in range(len(x))]
    got = gs.robust_radius(model, x, y, chunk_size=chunk_size)
    assert_close(got, torch.tensor(expected, dtype=x.dtype), rtol=1e-7, atol=1e-9)


def test_a_step_of_the_radius_reaches_the_boundary_and_no_shorter_one_does() -> None:
    model = nn.Linear(6, 4).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    radius = gs.robust_radius(model, x, y)
    assert bool((radius > 0).all())
    normals = model.weight.detach()[y, None] - model.weight.detach()  # (50, 4, 6), 0 for the label
    lengths = normals.norm(dim=2).masked_fill(torch.eye(4, dtype=torch.bool)[y], 1)
    steps = normals / lengths[..., None] * radius[:, None, None]
    for factor, crossed in ((0.999, False), (1.001, True)):
        moved = model((x[:, None] - factor * steps).view(-1, 6)).argmax(1).view(50, 4)
        assert bool(((moved != y[:, None]).any(1) == crossed).all())
    random = torch.randn(200, 50, 6, dtype=torch.float64)
    random *= 0.999 * radius[:, None] / random.norm(dim=2, keepdim=True)
    assert bool((model((x + random).view(-1, 6)).argmax(1).view(200, 50) == y).all())


def test_radius_is_negative_where_the_example_is_misclassified() -> None:
    model = nn.Linear(6, 4).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    y = torch.arange(50) % 4
    right = model(x).argmax(1) == y
    radius = gs.robust_radius(model, x, y)
    assert 0 < int(right.sum()) < 50
    assert torch.equal(radius > 0, right)


def test_an_aligned_rank_one_map_has_the_radius_of_the_distance_to_the_origin() -> None:
    """Theorem 3: A = u v^T has the radius |x| cos(v, x), at most |x|."""
    x, u = torch.randn(5, dtype=torch.float64), torch.tensor([0.2, 1.5, -0.7]).double()
    turned = x + 0.8 * torch.randn(5, dtype=torch.float64)
    for v in (x, turned):
        model = nn.Linear(5, 3, bias=False).double()
        model.weight.data = torch.outer(u, v)
        expected = x @ v / v.norm()
        assert_close(gs.robust_radius(model, x[None], torch.tensor([1]))[0], expected)
    assert turned @ x / turned.norm() < x.norm()


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_one_output_is_divided_at_the_threshold(threshold: float) -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.tensor([1, -1, 1, -1, 1, -1, 1, 1, -1])
    outputs = model(x).detach()
    expected = y * (outputs - threshold) / model[0].weight.detach().norm()
    assert_close(gs.robust_radius(model, x, y, threshold=threshold), expected)
    assert_close(gs.robust_radius(model, x, (y > 0).long(), threshold=threshold), expected)
    accuracy = gs.noise_accuracy(model, x, y, 0.0, threshold=threshold)
    assert float(accuracy) == pytest.approx(slow.accuracy(model, x, y, threshold))


def test_radius_of_a_constant_map_is_infinite_or_zero() -> None:
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.ones(2, 3, dtype=torch.float64)
    radius = gs.robust_radius(model, x, torch.tensor([0, 1]))
    assert radius.tolist() == [torch.inf, -torch.inf]
    model.bias.data.zero_()
    assert gs.robust_radius(model, x, torch.tensor([0, 1])).tolist() == [0, 0]


def test_noise_accuracy_of_a_linear_model_is_the_normal_distribution_of_its_margin() -> None:
    model = nn.Linear(3, 2, bias=False).double()
    x = torch.tensor([[0.7, -0.2, 0.4]]).double().repeat(20_000, 1)
    y = torch.zeros(20_000, dtype=torch.long)
    normal = (model.weight[0] - model.weight[1]).detach()
    generator = torch.Generator().manual_seed(0)
    for dims, part in ((None, normal), (slice(1, None), normal[1:]), ([0, 2], normal[[0, 2]])):
        got = gs.noise_accuracy(model, x, y, 0.6, dims, generator)
        expected = torch.special.ndtr(normal @ x[0] / (0.6 * part.norm()))
        assert float(got) == pytest.approx(float(expected), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_noise_accuracy_counts_like_the_slow_twin(chunk_size: int | None) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = torch.randn(40, 2, 3, dtype=torch.float64), torch.arange(40) % 3
    stds = [0.0, 0.5, 2.0]
    got = gs.noise_accuracy(
        model, x, y, stds, slice(2, None), torch.Generator().manual_seed(3), chunk_size=chunk_size
    )
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    noise.view(40, 6)[:, :2] = 0
    expected = [slow.accuracy(model, x + s * noise, y) for s in stds]
    assert_close(got, torch.tensor(expected, dtype=torch.float64))
    assert len(set(expected)) > 1


def test_nothing_of_the_model_or_the_random_state_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    radius = gs.robust_radius(model, x, y)
    accuracy = gs.noise_accuracy(model, x, y, 0.1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not radius.requires_grad
    assert not accuracy.requires_grad
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert_close(gs.robust_radius(model, x, y), radius)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(5), "y must hold a label for each of the 6 examples"),
        (torch.full((6,), 3), "y must hold integer classes from 0 to 2"),
        (torch.full((6,), -1), "y must hold integer classes from 0 to 2"),
        (torch.zeros(6), "y must hold integer classes from 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_named(y: Tensor, message: str) -> None:
    model, x = nn.Linear(4, 3), torch.randn(6, 4)
    for function in (gs.robust_radius, lambda *args: gs.noise_accuracy(*args, 0.1)):
        with pytest.raises(ValueError, match=message):
            function(model, x, y)


def test_settings_that_do_not_fit_are_named() -> None:
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match="std must be 0 or positive"):
        gs.noise_accuracy(model, x, y, -1.0)
    with pytest.raises(ValueError, match="dims must be a slice or a list of features from 0 to 3"):
        gs.noise_accuracy(model, x, y, 1.0, [4])
    with pytest.raises(ValueError, match="x holds NaN"):
        gs.noise_accuracy(model, x * torch.nan, y, 1.0)
    with pytest.raises(ValueError, match=r"model\.eval"):
        gs.noise_accuracy(nn.Sequential(nn.Dropout(0.5), model), x, y, 1.0)
    with pytest.raises(ValueError, match="chunk_size must be"):
        gs.robust_radius(model, x, y, chunk_size=-1)


@pytest.mark.parametrize("dims", [slice(5, None), slice(0, 0), slice(3, 1)])
def test_dims_that_name_no_feature_are_refused(dims: slice) -> None:
    x, y = torch.randn(6, 5), torch.arange(6) % 2
    with pytest.raises(ValueError, match="names none of the 5 features"):
        gs.noise_accuracy(lambda x: x[:, :2], x, y, 1.0, dims)
