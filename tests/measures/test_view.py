"""Models as functions of a batch: how they are called, what they return, and views of them."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.view import output_tensor, outputs_of, unwrapped, wrt_of
from tests.reference.jacobian import jacobian

N, LENGTH, D, K = 5, 4, 6, 3


class Masked(nn.Module):
    """Attention over positions that a mask holds open, with an unembedding of its last position."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2, batch_first=True)
        self.unembed = nn.Linear(D, K)

    def forward(self, e: Tensor, mask: Tensor) -> Any:
        mixed, weights = self.attention(e, e, e, key_padding_mask=mask)
        return SimpleNamespace(logits=self.unembed(mixed[:, -1].tanh()), weights=weights)


def masked() -> tuple[Masked, dict[str, Tensor]]:
    mask = torch.arange(LENGTH) >= torch.tensor([1, 4, 2, 3, 4])[:, None]
    return Masked().double().eval(), {"e": torch.randn(N, LENGTH, D).double(), "mask": mask}


MEASURES = [gs.input_jacobian, gs.jacobian_norm, gs.jacobian_alignment, gs.jacobian_pc1]
MEASURES += [gs.centroids, gs.centroid_alignment, gs.centroid_inner_product]
MEASURES += [lambda model, x, **kw: gs.affine_map(model, x, **kw)[1]]
MEASURES += [lambda model, x, **kw: gs.jacobian_geometry(model, x, **kw).pc1]


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_mask_travels_with_its_examples(measure: Any, chunk_size: int | None) -> None:
    """Each example measured alone, its mask in a closure, against the batch in one call."""
    model, batch = masked()
    alone = []
    for i in range(N):
        mask = batch["mask"][i : i + 1]
        view = gs.View(model, lambda m, e, mask=mask: m(e, mask).logits)
        alone.append(measure(view, batch["e"][i : i + 1]))
    expected = torch.cat(alone)
    assert_close(measure(model, batch, chunk_size=chunk_size), expected)
    assert_close(measure(model, tuple(batch.values()), chunk_size=chunk_size), expected)


def test_layer_centroids_take_a_dictionary() -> None:
    model, batch = masked()
    found = gs.layer_centroids(model, batch, ["unembed"], chunk_size=2)
    assert_close(found["unembed"], gs.centroids(model, batch))


def test_wrt_names_one_of_several_floating_point_leaves() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(a * b).sum(1), b.sum(1)], 1)

    x = {"a": torch.randn(N, 3).double(), "b": torch.randn(N, 3).double()}
    by_b = gs.input_jacobian(gs.View(model, wrt="b"), x)
    assert_close(by_b, torch.stack([x["a"], torch.ones(N, 3).double()], 1))
    assert_close(gs.centroids(gs.View(model, wrt=0), tuple(x.values())), x["b"])
    assert_close(gs.jacobian_geometry(gs.View(model, wrt="b"), x).inputs, x["b"])
    with pytest.raises(ValueError, match="several floating-point tensors"):
        gs.centroids(model, x)


def test_parameter_names_and_values_are_those_of_the_model() -> None:
    model, batch = masked()
    view = gs.View(model, lambda m, b: m(**b).logits)
    assert dict(view.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert all(p is q for p, q in zip(view.parameters(), model.parameters(), strict=True))
    assert view.state_dict().keys() == model.state_dict().keys()
    assert [name for name, _ in view.named_modules()] == [n for n, _ in model.named_modules()]
    other = {name: torch.randn_like(p) for name, p in view.named_parameters()}
    assert_close(
        functional_call(view, other, (batch,)), functional_call(model, other, (), batch).logits
    )
    view.load_state_dict(other)
    assert_close(model.unembed.weight.detach(), other["unembed.weight"])
    assert_close(view(batch), view(**batch))


class Counted(nn.Module):
    """Owns a parameter, a buffer and a plain tensor, and notes how its mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))
        self.table = torch.ones(3)
        self.set_to: list[bool] = []

    def _apply(self, fn: Any, recurse: bool = True) -> Counted:
        self.table = fn(self.table)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Counted:
        self.set_to.append(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * (2 if self.training else 1)


def test_mode_and_type_are_those_of_the_model() -> None:
    model = Counted()
    view = gs.View(model)
    assert view.training
    view.eval()
    assert (model.training, view.training, model.set_to) == (False, False, [False])
    model.train()
    assert view.training
    view.double()
    assert model.weight.dtype == model.seen.dtype == model.table.dtype == torch.float64
    assert_close(view(torch.ones(2, 3).double()), torch.full((2, 3), 2.0).double())


def test_a_copy_is_apart_and_whole() -> None:
    view = gs.View(Counted())
    for other in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        with torch.no_grad():
            other.weight.zero_()
        assert_close(other(torch.ones(1, 3)), torch.zeros(1, 3))
        assert_close(view(torch.ones(1, 3)), torch.full((1, 3), 2.0))


def test_a_view_of_a_function_and_of_a_view() -> None:
    assert list(gs.View(lambda x: x).parameters()) == []
    assert gs.View(lambda x: x).state_dict() == {}
    inner = gs.View(lambda x: 3 * x["a"], lambda m, x: m(x), wrt="a")
    outer = gs.View(inner, lambda m, x: m(x)[:, :2])
    assert wrt_of(outer) == "a"
    x = {"a": torch.ones(2, 4), "b": torch.ones(2)}
    assert_close(gs.centroids(outer, x)[0], torch.tensor([3.0, 3, 0, 0]))


def test_a_plain_view_of_a_perceptron_keeps_its_short_cut() -> None:
    model = gs.MLP(7, [6, 5], 3, seed=0).double()
    assert unwrapped(gs.View(gs.View(model))) is model
    x = torch.randn(N, 7).double()
    assert_close(gs.input_jacobian(gs.View(model), x), jacobian(model, x))


@pytest.mark.parametrize(
    "outputs",
    [
        torch.ones(N, K),
        SimpleNamespace(logits=torch.ones(N, K)),
        (torch.ones(N, K), torch.zeros(2)),
        {"loss": torch.zeros(()), "logits": torch.ones(N, K)},
        {"out": torch.ones(N, K), "names": ["a"]},
    ],
)
def test_outputs_are_picked(outputs: Any) -> None:
    assert_close(output_tensor(outputs), torch.ones(N, K))
    assert gs.input_jacobian(lambda x: {"y": x}, torch.ones(2, 3)).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (None, "got NoneType; pick the tensor to study"),
        ((None, torch.ones(2)), "got tuple; pick"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, "returns a dict with 'a', 'b': say which"),
        ({}, "returns a dict with nothing in it"),
    ],
)
def test_outputs_that_cannot_be_guessed_are_named(outputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        output_tensor(outputs)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"e": torch.ones(2, 3), "m": torch.ones(2)}, r"x\['m'\] of shape \(2,\).*as model\(\*\*x"),
        ((torch.ones(2, 3), torch.ones(2)), r"x\[0\] of shape \(2, 3\).*as model\(\*x\)"),
        (torch.ones(2, 4), r"model does not run on x of shape \(2, 4\), torch.float32 on cpu; its"),
    ],
)
def test_a_model_that_does_not_take_the_batch(x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outputs_of(nn.Linear(3, 2), x)


def test_a_wrong_place_of_derivatives_is_named() -> None:
    without_run_time_types = inspect.unwrap(gs.View.__init__)
    with pytest.raises(TypeError, match="wrt must be a position, a key or None: got float"):
        without_run_time_types(gs.View.__new__(gs.View), nn.Linear(3, 2), None, 1.0)


def test_values_that_are_not_finite_are_named_by_leaf() -> None:
    def model(e: Tensor, bias: Tensor) -> Tensor:
        return e + bias.exp()

    view = gs.View(model, wrt="e")
    e, bias = torch.ones(2, 3), torch.zeros(2, 3)
    bias[1, 0] = -torch.inf  # an additive mask may hold it
    assert gs.centroids(view, {"e": e, "bias": bias}).shape == (2, 3)
    with pytest.raises(ValueError, match=r"x\['bias'\] holds NaN.* x\['bias'\]\[1\]"):
        gs.centroids(view, {"e": e, "bias": bias * 0})
    e[1] = torch.inf
    with pytest.raises(ValueError, match=r"x\['e'\]\[1\]"):
        gs.centroids(view, {"e": e, "bias": bias})


def sums_of_tokens(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
    e = b["e"] if "e" in b else m(b["ids"])
    return (e * b["mask"].unsqueeze(-1)).sum(1).tanh() @ torch.ones(D, K, dtype=e.dtype)


MASKS = {"bool": torch.bool, "int64": torch.int64, "float64": torch.float64}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("named", [False, True])
def test_tokens_are_embedded_whatever_the_kind_of_their_mask(kind: str, named: bool) -> None:
    table = nn.Embedding(7, D).double()
    ids = torch.randint(7, (N, LENGTH))
    mask = (torch.arange(LENGTH) < torch.tensor([1, 4, 2, 3, 4])[:, None]).to(MASKS[kind])
    view = gs.View(
        table,
        sums_of_tokens,
        wrt="e" if named else None,
        embed=lambda m, b: {"e": m(b["ids"]), "mask": b["mask"]},
    )
    by_hand = gs.View(table, sums_of_tokens, wrt="e")
    embeddings = {"e": table(ids).detach(), "mask": mask}
    batch = {"ids": ids, "mask": mask}
    if kind == "float64" and not named:
        with pytest.raises(ValueError, match=r"several floating-point .* gs.View\(model, wrt='e'"):
            gs.jacobian_norm(view, batch)
        return
    expected = gs.jacobian_norm(by_hand, embeddings)
    assert_close(gs.jacobian_norm(view, batch), expected)
    assert_close(gs.jacobian_norm(gs.View(view), batch), expected)
    penalty = gs.jacobian_penalty(view, batch, projections=None)
    assert_close(penalty.detach(), expected.square().mean())
    if named or kind != "int64":  # integers beside embeddings may be tokens
        assert_close(gs.jacobian_norm(view, embeddings), expected)
    else:
        with pytest.raises(ValueError, match=r"taken for tokens.*KeyError: 'ids'.*wrt='e'"):
            gs.jacobian_norm(view, embeddings)
