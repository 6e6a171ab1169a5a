"""What is refused, and in which words."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokscope as gs
from tests.measures.regions.networks import mlp


def square(*shape: int) -> gs.Slice:
    size = torch.Size(shape).numel()
    return gs.Slice(torch.zeros(shape), torch.eye(size)[:2].reshape(2, *shape))


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(x))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.GELU(), "GELU"),
        (nn.LayerNorm(3), "LayerNorm"),
        (nn.Softmax(1), "Softmax"),
        (nn.Threshold(0.1, 20.0), "Threshold"),
    ],
)
def test_layers_that_are_not_piecewise_affine(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), layer).eval()
    with pytest.raises(ValueError, match=rf"layer '1' \({name}\)"):
        gs.linear_regions(model, square(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.gelu(x),
        lambda x: x * x,
        lambda x: torch.softmax(x, 1),
        lambda x: x.exp(),
        lambda x: 1 / x,
        lambda x: x @ x.transpose(0, 1),
        lambda x: x.sort(1)[0],
        lambda x: x.float(),
        lambda x: F.linear(x, x),
        lambda x: torch.clamp(x, x, x),
        lambda x: x[x > 0],
    ],
)
def test_calls_that_are_not_piecewise_affine(function) -> None:
    with pytest.raises(ValueError, match=r"not known to be piecewise affine|cannot be traced"):
        gs.linear_regions(Calls(function), square(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu(x, True),
        lambda x: x.clamp(-0.2, 0.3).clamp_(min=-0.1),
        lambda x: torch.cat([x[:, :2].abs(), x[:, 2:].mul(3) / 2 - 1], dim=1),
        lambda x: torch.stack([x, -x]).mean(0) + x.reshape(x.shape[0], -1).relu_(),
        lambda x: F.leaky_relu(x + 1, 0.1, inplace=True) + F.hardsigmoid(x) * 2,
        lambda x: torch.max(x, x.flip(1)) - torch.min(x, 2 * x),
        lambda x: x.chunk(3, dim=1)[1].expand(-1, 3).relu() + x,
    ],
)
def test_calls_that_are(function) -> None:
    plane = gs.Slice.random(torch.full((3,), 0.1), 1.0, torch.Generator().manual_seed(0))
    regions = gs.linear_regions(Calls(function), plane)
    assert len(regions) >= 2
    points = regions.interior_points
    maps = regions.slice_maps()
    with torch.no_grad():
        expected = Calls.forward(regions._network.module, plane.points(points))
    found = torch.einsum("nki,ni->nk", maps.A, points) + maps.b
    torch.testing.assert_close(found, expected)


def test_training_mode_branches_and_wrong_types() -> None:
    with pytest.raises(ValueError, match="BatchNorm1d in training mode"):
        gs.linear_regions(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), square(3))
    no_statistics = nn.BatchNorm1d(3, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="without running statistics at '1'"):
        gs.linear_regions(nn.Sequential(nn.Linear(3, 3), no_statistics), square(3))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        gs.linear_regions(torch.relu, square(3))  # type: ignore[arg-type]

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="must not branch"):
        gs.linear_regions(Branches(), square(3))

    class BatchSize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.shape[0] > 1 else -x

    with pytest.raises(ValueError, match=r"x if x\.shape\[0\] > 1.*number of examples in"):
        gs.linear_regions(BatchSize(), square(3))

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match="must return one tensor"):
        gs.linear_regions(Two(), square(3))


def test_a_slice_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"batch of shape \(2, 4\), made from the slice's origin"):
        gs.linear_regions(mlp([3, 4, 2]), square(4))
    with pytest.raises(ValueError, match="outputs of shape"):
        gs.linear_regions(nn.Conv2d(1, 2, 1), square(1, 2, 2))


def test_the_budget() -> None:
    torch.manual_seed(0)
    model = mlp([2, 20, 20, 2])
    plane = gs.Slice(torch.zeros(2), torch.eye(2), 4.0)
    whole = gs.linear_regions(model, plane)
    first, second = whole.counts.values()
    with pytest.raises(RuntimeError, match=r"max_regions=.* in layer '3' \(2 of 2\)"):
        gs.linear_regions(model, plane, max_regions=second - 1)
    part = gs.linear_regions(model, plane, max_regions=second - 1, partial=True)
    assert not part.complete
    assert len(part) == first == part.counts["1"]
    assert "partial: 1/2 layers" in repr(part)
    assert list(part.activation_patterns()) == ["1"]
    with pytest.raises(ValueError, match="partial"):
        part.affine_maps()
    assert gs.linear_regions(model, plane, max_regions=second).complete
    with pytest.raises(ValueError, match="max_regions must be positive"):
        gs.linear_regions(model, plane, max_regions=0)


def test_a_first_layer_that_explodes_is_refused_at_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 600), nn.ReLU(), nn.Linear(600, 2))
    plane = gs.Slice(torch.zeros(2), torch.eye(2), 0.5)
    true = len(gs.linear_regions(model, plane))
    message = r"layer '1' alone makes about ([\d,]+) regions .* half_width=([\d.e-]+) would fit"
    lines: list[str] = []
    with pytest.raises(RuntimeError, match=message) as caught:
        gs.linear_regions(model, plane, max_regions=true // 4, progress=lines.append)
    assert not lines  # no layer was split
    estimate, width = re.search(message, str(caught.value)).groups()
    assert float(estimate.replace(",", "")) == pytest.approx(true, rel=0.03)
    smaller = gs.Slice(plane.origin, plane.basis, float(width))
    assert 0.3 * true / 4 < len(gs.linear_regions(model, smaller)) <= true // 4
    assert gs.linear_regions(model, plane, max_regions=true).complete


def test_a_deep_network_that_will_explode_is_refused_after_the_first_layers() -> None:
    torch.manual_seed(0)
    model = mlp([2, 100, 100, 100, 100, 2])
    for parameter in model.parameters():
        parameter.data.mul_(2)
    plane = gs.Slice(torch.zeros(2), torch.eye(2), 2.0)
    true = len(gs.linear_regions(model, plane))
    lines: list[str] = []
    message = r"by a sample of its cells, it has about ([\d,]+) regions .* half_width=([\d.e-]+)"
    with pytest.raises(RuntimeError, match=message) as caught:
        gs.linear_regions(model, plane, max_regions=true // 3, progress=lines.append)
    assert 1 <= len(lines) < 4
    estimate, width = re.search(message, str(caught.value)).groups()
    assert float(estimate.replace(",", "")) == pytest.approx(true, rel=0.1)
    assert float(width) < 2.0
    assert gs.linear_regions(model, plane, max_regions=true).complete
    part = gs.linear_regions(model, plane, max_regions=true // 3, partial=True)
    assert not part.complete


def test_progress_tells_every_layer() -> None:
    lines: list[str] = []
    regions = gs.linear_regions(mlp([2, 5, 4, 2]), square(2), progress=lines.append)
    assert lines[-1] == f"layer 2/2 (3): {len(regions)} regions"
    assert len(lines) == 2


def test_a_model_that_mixes_its_batch_is_caught() -> None:
    with pytest.raises(ValueError, match="must keep the batch on the first axis"):
        gs.linear_regions(Calls(lambda x: x.relu() + x.mean(0, keepdim=True)), square(3))
    with pytest.raises(RuntimeError, match="disagree with the model"):
        gs.linear_regions(Calls(lambda x: x + x.relu().mean(0, keepdim=True)), square(3))


def test_an_input_overwritten_in_place_is_caught() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.act = nn.Linear(3, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.lin(x)
            return self.act(h) + h

    with pytest.raises(RuntimeError, match="overwritten"):
        gs.linear_regions(Overwrites(), square(3))
