"""The transformer: the short forward pass against the whole one, its weights, its embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import grokscope as gs
from grokscope.models import build
from grokscope.models.transformer import residue_weights
from tests.reference.jacobian import jacobian
from tests.reference.penalty import penalty
from tests.reference.transformer import transformer

P, D, HEADS = 5, 12, 3


def network(length: int = 3) -> tuple[gs.Transformer, Tensor]:
    """A small one with biases that are not zero, and all pairs: more examples than tokens."""
    model = gs.Transformer(P, d_model=D, num_heads=HEADS, d_mlp=7, length=length, seed=1).double()
    with torch.no_grad():
        model.mlp_in.bias.normal_()
        model.mlp_out.bias.normal_()
    data = gs.load_data("modular", modulus=P, encoding="tokens", equals=length == 3)
    return model, torch.cat([data.train_x, data.test_x])


@pytest.mark.parametrize("length", [2, 3])
def test_the_short_forward_pass_is_exact(length: int) -> None:
    """Of tokens by the table, of few tokens, and of embeddings: outputs and gradients."""
    model, x = network(length)
    parameters = dict(model.named_parameters())
    expected = transformer(parameters, model.embed(x), HEADS)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((weights * expected).sum(), list(parameters.values()))
    for outputs in (
        model(x),
        torch.cat([model(part) for part in x.split(P)]),
        model(model.embed(x)),
    ):
        assert_close(outputs, expected)
        found = torch.autograd.grad((weights * outputs).sum(), list(parameters.values()))
        assert_close(found, wanted)


def test_measures_are_taken_at_the_embeddings() -> None:
    model, x = network()
    e = model.embed(x).detach()
    expected = jacobian(model, e)
    assert_close(gs.input_jacobian(model, x, chunk_size=7), expected)
    assert_close(gs.input_jacobian(gs.View(model, lambda m, b: m(b)[:, :2]), x), expected[:, :2])
    assert_close(gs.jacobian_geometry(model, x).inputs, e)
    outside = gs.View(
        lambda e: transformer(dict(model.named_parameters()), e, HEADS),
        embed=lambda f, tokens: model.embed(tokens),
    )
    assert_close(gs.centroid_alignment(outside, x), gs.centroid_alignment(model, e))


def test_the_penalty_is_taken_at_the_embeddings_as_they_are() -> None:
    model, x = network()
    expected = penalty(model, model.embed(x).detach(), True, 0.3)
    found = gs.jacobian_penalty(model, x, projections=None, offset_weight=0.3)
    assert_close(found, expected)
    trained = [p for name, p in model.named_parameters() if name != "embed.weight"]
    assert_close(torch.autograd.grad(found, trained), torch.autograd.grad(expected, trained))
    grokalign = gs.GrokAlign(1e-3, every=2)
    assert grokalign(model, x).dtype == torch.get_default_dtype()
    assert grokalign(model, x) > 0


def test_kernels_take_tokens() -> None:
    model, x = network()
    parameters = list(model.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(model(one[None]).sum(), parameters)])
        for one in x[:4]
    ]
    gradients = torch.stack(rows)
    assert_close(gs.empirical_ntk(model, x[:4], reduce="sum"), gradients @ gradients.T)


def test_weights_are_drawn_as_by_nanda() -> None:
    before = torch.get_rng_state()
    model = gs.Transformer(113, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(p.numel() for p in model.parameters()) == (
        128 * (114 + 3 + 4 * 128 + 2 * 512 + 113) + 512 + 128
    )
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(weight, torch.zeros_like(weight))
        else:
            fan = 113 if name == "unembed.weight" else 128
            assert weight.std().item() == pytest.approx(fan**-0.5, rel=0.05)
    other = gs.Transformer(113, seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_it_is_built_by_name() -> None:
    model = build("transformer", (3,), 7, d_model=8, num_heads=2, d_mlp=5, seed=0)
    assert isinstance(model, gs.Transformer)
    assert (model.modulus, model.embed.num_embeddings, len(model.positions)) == (7, 8, 3)
    with pytest.raises(ValueError, match="for tokens and classes"):
        build("transformer", (3, 32, 32), 10)


def test_mistakes_are_named() -> None:
    model, x = network()
    with pytest.raises(ValueError, match=r"tokens \(n, 3\) or embeddings \(n, 3, 12\): got .*2\)"):
        model(x[:, :2])
    with pytest.raises(ValueError, match=r"embeddings \(n, 3, 12\): got shape \(4, 3\), torch.fl"):
        model(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="num_heads must divide d_model: got num_heads=5"):
        gs.Transformer(P, d_model=12, num_heads=5)
    with pytest.raises(ValueError, match="modulus must be a positive integer: got 0"):
        gs.Transformer(0)
    x[0, 0] = P + 1  # would be another position's row in a table of all rows
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        model(x)


def test_weights_over_residues_by_their_definitions() -> None:
    model, _ = network()
    weights = residue_weights(gs.View(model))
    assert_close(weights["embedding"], model.embed(torch.arange(P)))
    neuron = torch.zeros(7).double()
    neuron[4] = 1
    direct = model.unembed(model.mlp_out(neuron) - model.mlp_out.bias)
    assert_close(weights["neuron_logit"][:, 4], direct)
    assert weights["unembedding"].shape == (P, D)
    monitor = gs.Monitor(
        model, (network()[1], torch.zeros(P * P).long()), ["neuron_logit_gini", "embedding_gini"]
    )
    row = monitor.step(0)
    assert row is not None
    assert row["neuron_logit_gini"] == float(gs.fourier_gini(weights["neuron_logit"], P))
    with pytest.raises(ValueError, match=r"need a model with residue_weights\(.*got MLP"):
        residue_weights(gs.MLP(3, [4], 5))
