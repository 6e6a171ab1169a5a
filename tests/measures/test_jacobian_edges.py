"""What Jacobian measures leave alone, what they refuse, and their values at the edges."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import grokscope as gs
from tests.measures.networks import NETWORKS, Network, relu_mlp

MEASURES = [
    gs.input_jacobian,
    gs.jacobian_norm,
    gs.jacobian_alignment,
    gs.jacobian_pc1,
    gs.affine_map,
    gs.centroids,
    gs.centroid_alignment,
    gs.centroid_inner_product,
]


@pytest.mark.parametrize("make", [relu_mlp, NETWORKS["cnn_with_batch_norm"]])
@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_is_changed(measure: Any, make: Any) -> None:
    model, x = make()
    assert isinstance(model, nn.Module)
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    before = copy.deepcopy(model.state_dict())
    inputs, state = x.clone(), torch.get_rng_state()
    result = measure(model, x)

    assert torch.equal(x, inputs)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[0].grad is None
    assert torch.equal(parameters[1].grad, torch.ones_like(parameters[1]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    for part in result if isinstance(result, tuple) else (result,):
        assert not part.requires_grad


@pytest.mark.parametrize("make", [relu_mlp, NETWORKS["residual"]])
@pytest.mark.parametrize("measure", MEASURES)
def test_the_caller_may_stand_anywhere(measure: Any, make: Any) -> None:
    model, x = make()
    assert isinstance(model, nn.Module)
    expected = measure(model, x)
    with torch.no_grad():
        assert_close(measure(model, x), expected)
    with torch.inference_mode():
        assert_close(measure(model, x.clone()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(measure(model, x), expected)
    assert_close(measure(model, x.clone().requires_grad_()), expected)
    model.requires_grad_(False)
    assert_close(measure(model, x), expected)


def test_float32_comes_back_as_float32() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(6, 4)
    geometry = gs.jacobian_geometry(model, x)
    wide = gs.jacobian_geometry(copy.deepcopy(model).double(), x.double())
    for name in ("norm", "alignment", "pc1", "centroids", "centroid_alignment"):
        assert getattr(geometry, name).dtype == torch.float32
        assert_close(getattr(geometry, name).double(), getattr(wide, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [False, True])
def test_zero_vectors_have_cosine_zero_and_no_first_component(wrap: bool) -> None:
    """Output 1 has no Jacobian row; example 0 is the origin; example 1 has no Jacobian at all."""
    chain = nn.Sequential(nn.Linear(2, 3, bias=True), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        chain[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
        chain[0].bias.copy_(torch.tensor([0.5, 0.5, 0.5]))
        chain[2].weight[1] = 0
    model = (lambda x: chain(x)) if wrap else chain
    x = torch.tensor([[0.0, 0], [-5, -5], [1, 2]])
    geometry = gs.jacobian_geometry(model, x)
    assert torch.equal(geometry.alignment[0], torch.zeros(2))
    assert torch.equal(geometry.alignment[1], torch.zeros(2))
    assert geometry.alignment[2, 0] != 0
    assert geometry.alignment[2, 1] == 0
    assert torch.equal(geometry.centroid_alignment[:2], torch.zeros(2))
    assert torch.equal(geometry.norm[1:2], torch.zeros(1))
    assert_close(geometry.pc1, torch.tensor([1.0, 0, 1]))
    assert geometry.centroid_alignment[2] != 0


def test_a_diverged_network_shows_nan_and_does_not_fail() -> None:
    def model(x: Tensor) -> Tensor:
        return (x - 1).sqrt()

    pc1 = gs.jacobian_pc1(model, torch.tensor([[0.5, 3.0], [2.0, 2.0]]))
    assert pc1[0].isnan()
    assert_close(pc1[1:], torch.tensor([0.5]))


def test_outputs_that_the_input_does_not_reach_have_zero_rows() -> None:
    weight = nn.Parameter(torch.ones(3))

    def model(x: Tensor) -> Tensor:
        return weight.expand(len(x), 3)

    assert torch.equal(gs.input_jacobian(model, torch.ones(2, 4)), torch.zeros(2, 3, 4))


def _detached(x: Tensor) -> Tensor:
    return x.detach()


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Linear(4, 2), torch.zeros(4), r"x needs a batch axis.*unsqueeze"),
        (nn.Linear(4, 2), torch.zeros(0, 4), "x is empty"),
        (nn.Linear(4, 2), torch.full((3, 4), torch.nan), r"NaN or infinity.*x\[0\]"),
        (nn.Linear(4, 2), torch.zeros(3, 5), r"model does not run on x of shape \(3, 5\)"),
        (nn.Linear(4, 2), torch.zeros(3, 4).double(), "float64 on cpu; its weights are.*float32"),
        (nn.Conv1d(3, 2, 1), torch.zeros(5, 3, 4), r"\(5, k\) or \(5,\): got \(5, 2, 4\)"),
        (nn.BatchNorm1d(4), torch.randn(3, 4), "BatchNorm1d in training mode.*model.eval"),
        (nn.Dropout(0.5), torch.randn(3, 4), "Dropout in training mode.*chance"),
        (_detached, torch.randn(3, 4), "carry no gradient to x"),
    ],
)
def test_a_mistake_is_named(model: Any, x: Tensor, message: str) -> None:
    for measure in (gs.jacobian_geometry, gs.centroids):
        with pytest.raises(ValueError, match=message):
            measure(model, x)


def test_batch_norm_without_running_statistics_mixes_examples_even_in_eval_mode() -> None:
    model = nn.BatchNorm1d(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="BatchNorm1d without running statistics"):
        gs.centroids(model, torch.randn(3, 4))


def test_bad_arguments_are_named() -> None:
    model, x = relu_mlp()
    with pytest.raises(ValueError, match="projections must be a positive integer or None: got 0"):
        gs.jacobian_norm(model, x, projections=0)
    with pytest.raises(ValueError, match="chunk_size must be"):
        gs.centroids(model, x, chunk_size=0)


def test_gradients_by_tokens_are_refused() -> None:
    from grokscope.measures.local_map import in_chunks

    with pytest.raises(TypeError, match="embeddings"):
        in_chunks(nn.Embedding(5, 3), torch.ones(2, 4, dtype=torch.long), None, lambda x, _: (x,))


def test_chunks_bound_what_the_model_sees() -> None:
    seen: list[int] = []

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    gs.jacobian_norm(model, torch.randn(7, 3), chunk_size=3)
    assert sorted(seen) == [1, 3, 3, 3]  # three for the comparison with their company


def test_networks_are_asymmetric() -> None:
    """Guards the other tests: with n = k or k = d, swapped axes could pass."""
    for make in NETWORKS.values():
        network: Network = make()
        model, x = network
        k = model(x.clone()).reshape(len(x), -1).shape[1]
        assert len({len(x), k, x[0].numel()}) == 3 or len(x) == 1 or k == 1
