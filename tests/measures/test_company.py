"""Examples whose outputs change with their company are found in every measure, and named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokscope as gs

N = 12
X, Y = torch.randn(N, 4), torch.arange(N) % 3
MEASURES: dict[str, Callable[[Any], Any]] = {
    "input_jacobian": lambda m: gs.input_jacobian(m, X),
    "jacobian_norm": lambda m: gs.jacobian_norm(m, X),
    "jacobian_norm, projected": lambda m: gs.jacobian_norm(m, X, 2),
    "jacobian_alignment": lambda m: gs.jacobian_alignment(m, X),
    "jacobian_pc1": lambda m: gs.jacobian_pc1(m, X),
    "affine_map": lambda m: gs.affine_map(m, X),
    "jacobian_geometry": lambda m: gs.jacobian_geometry(m, X),
    "centroids": lambda m: gs.centroids(m, X),
    "centroid_alignment": lambda m: gs.centroid_alignment(m, X),
    "centroid_inner_product": lambda m: gs.centroid_inner_product(m, X),
    "layer_centroids": lambda m: gs.layer_centroids(m, X),
    "layer_activations": lambda m: gs.layer_activations(m, X, [""]),
    "stream_layer_activations": lambda m: list(gs.stream_layer_activations(m, X, [""])),
    "robust_radius": lambda m: gs.robust_radius(m, X, Y),
    "noise_accuracy": lambda m: gs.noise_accuracy(m, X, Y, 0.1),
    "empirical_ntk": lambda m: gs.empirical_ntk(m, X),
    "ntk_plan": lambda m: gs.ntk_plan(m, X),
    "robust_accuracy": lambda m: gs.robust_accuracy(m, X, Y, "pgd", eps=0.1, bounds=None),
    "chunks": lambda m: gs.centroids(m, X, chunk_size=5),
}


class Net(nn.Module):
    """A linear map with something between it and the batch."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.spoil(x))


MASK = torch.arange(N)[:, None] % 4 != torch.arange(4)
FAULTS: dict[str, Callable[[], nn.Module]] = {
    "dropout as a function": lambda: Net(lambda x: F.dropout(x, 0.5)),
    "noise": lambda: Net(lambda x: x + torch.randn_like(x)),
    "the batch's mean": lambda: Net(lambda x: x - x.mean(0)),
    "a branch on the batch's size": lambda: Net(lambda x: x * (2 if len(x) > 3 else 1)),
    "a mask in a closure": lambda: Net(lambda x: x * MASK[: len(x)]),
    "BatchNorm in a function": lambda: Net(lambda x: F.batch_norm(x, None, None, training=True)),
}


# the plan looks at three examples, and those are among themselves in these two
BEYOND_THE_PLAN = ("a branch on the batch's size", "a mask in a closure")
CASES = [
    (measure, fault)
    for measure in MEASURES
    for fault in FAULTS
    if measure != "ntk_plan" or fault not in BEYOND_THE_PLAN
]


@pytest.mark.parametrize(("measure", "fault"), CASES)
def test_the_example_is_named(measure: str, fault: str) -> None:
    torch.manual_seed(0)
    model = FAULTS[fault]().eval()
    if measure == "chunks" and fault == "a branch on the batch's size":
        model.spoil = lambda x: x * (2 if len(x) == 5 else 1)
    named = r"for x1?\[\d+\] depends on the rest of its batch or on chance"
    with pytest.raises(ValueError, match=named):
        MEASURES[measure](model)


@pytest.mark.parametrize("measure", MEASURES)
def test_models_of_single_examples_pass(measure: str) -> None:
    MEASURES[measure](Net(torch.sin).eval())


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)])
def test_layers_in_training_mode_are_found_inside_of_a_function(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 3), layer)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="in training mode at '1'"):
        gs.jacobian_norm(lambda x: 2 * net(x), X)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_model_that_counts_its_calls_is_measured_as_it_is() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) * self.calls.item()

    model = Counting()
    for chunk_size in (None, 5):
        found = gs.input_jacobian(model, X, chunk_size=chunk_size)
        torch.testing.assert_close(found, model.inner.weight.expand(N, 3, 4))
    assert model.calls == 0


class Upcast(nn.Module):
    """Computes in half precision, in another order at each batch size, and returns float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.layer, self.head = layer.to(dtype), nn.Linear(8, 3).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.to(self.head.weight.dtype)).mean(1)).float()


class Encoder(Upcast):
    """The same with outputs in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.to(self.head.weight.dtype)).mean(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Upcast, Encoder])
def test_rounding_in_half_precision_is_no_company(kind: type[Upcast], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = kind(dtype).eval(), torch.randn(8, 4, 8)
    wide = copy.deepcopy(model).float()
    for measure in (gs.input_jacobian, gs.empirical_ntk):
        found, expected = measure(model, x), measure(wide, x)
        assert float((found - expected).norm() / expected.norm()) < 0.05
