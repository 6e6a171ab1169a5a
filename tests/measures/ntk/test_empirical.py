from __future__ import annotations

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.measures.ntk import contract, memory
from tests.measures.ntk.models import MODELS, build
from tests.reference.ntk import full_kernel


def check_all_reductions(
    model: nn.Module, x1: torch.Tensor, x2: torch.Tensor | None, **options: int
) -> None:
    expected = full_kernel(model, x1, x1 if x2 is None else x2)
    trace, total = expected.diagonal(dim1=2, dim2=3).mean(-1), expected.sum((2, 3))
    torch.testing.assert_close(gs.empirical_ntk(model, x1, x2, **options), expected)
    torch.testing.assert_close(gs.empirical_ntk(model, x1, x2, reduce="trace", **options), trace)
    torch.testing.assert_close(gs.empirical_ntk(model, x1, x2, reduce="sum", **options), total)


@pytest.mark.parametrize("other", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_definition(name: str, other: bool) -> None:
    model, x1, x2 = build(name)
    check_all_reductions(model, x1, x2 if other else None)


def test_above_the_size_of_a_block() -> None:
    """At full block sizes: 300 examples of 3 outputs against themselves and 37 others."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(337, 4, dtype=torch.float64)
    assert contract._BLOCK_CPU < 300 * 300 * 3
    check_all_reductions(model, x[:300], None)
    check_all_reductions(model, x[:300], x[300:])


@pytest.mark.parametrize("block", [40, 300])
@pytest.mark.parametrize("name", ["mlp", "transformer", "residual", "scalar"])
def test_any_size_of_a_block(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "_BLOCK_CPU", block)
    model, x1, x2 = build(name)
    x = torch.cat([x1, x2, x1 if name == "transformer" else x1 + 1])
    check_all_reductions(model, x, None)
    check_all_reductions(model, x, x2)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("mlp", 1),  # every row of every example is a block of its own
        ("scalar", 1),
        ("mlp", 400),  # three of the four outputs fit
        ("mlp", 2_000),
        ("transformer", 20_000),
        ("tied embedding", 40_000),
        ("gru", 20_000),
        ("cnn stride", 10_000),
    ],
)
def test_any_bound_on_memory(name: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters in groups, examples in blocks and outputs in blocks."""
    monkeypatch.setattr(memory, "_HELD", held)
    monkeypatch.setattr(memory, "_PASSING", 5 * held)
    model, x1, x2 = build(name)
    count = 2 if held < 1000 else 4
    check_all_reductions(model, x1[:count], None)
    check_all_reductions(model, x1[:count], x2[: count - 1])


@pytest.mark.parametrize("name", ["mlp", "transformer", "gru", "residual"])
@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_chunks_change_nothing(name: str, chunk_size: int) -> None:
    model, x1, x2 = build(name)
    check_all_reductions(model, x1, x2, chunk_size=chunk_size)


def test_many_positions_and_outputs() -> None:
    """A width at which keeping inputs and cotangents apart pays at several positions."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(40, 30), nn.Linear(30, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.inner(x))).square().sum(1)

    model = Wide().double()
    x = torch.randn(40, 2, 40, dtype=torch.float64)
    assert "apart" in gs.ntk_plan(model, x).parameters["inner.weight"].how
    check_all_reductions(model, x[:33], None)
    check_all_reductions(model, x[:33], x[33:])


def test_symmetric_to_the_last_bit_and_positive_semidefinite() -> None:
    for name in ("mlp", "transformer", "residual"):
        model, x, _ = build(name)
        kernel = gs.empirical_ntk(model, x)
        assert torch.equal(kernel, kernel.permute(1, 0, 3, 2))
        n, k = kernel.shape[0], kernel.shape[2]
        matrix = kernel.permute(2, 0, 3, 1).reshape(n * k, n * k)
        assert matrix.data_ptr() == kernel.data_ptr()
        values = torch.linalg.eigvalsh(matrix)
        assert values.min() > -1e-10 * values.max()
        for reduce in ("trace", "sum"):
            reduced = gs.empirical_ntk(model, x, reduce=reduce)
            assert torch.equal(reduced, reduced.T)


def test_float32_error_is_below_a_millionth() -> None:
    model = nn.Sequential(nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 5))
    x = torch.randn(40, 50)
    kernel = gs.empirical_ntk(model, x)
    exact = full_kernel(model.double(), x.double(), x.double())
    assert kernel.dtype == torch.float32
    assert (kernel - exact).norm() < 1e-6 * exact.norm()


def test_the_parts_of_single_parameters_add_up() -> None:
    for name in ("mlp", "transformer", "tied weights"):
        model, x1, x2 = build(name)
        names = [n for n, _ in model.named_parameters()]
        parts = [gs.empirical_ntk(model, x1, x2, parameters=[n]) for n in names]
        for n, part in zip(names, parts, strict=True):
            torch.testing.assert_close(part, full_kernel(model, x1, x2, [n]))
        torch.testing.assert_close(sum(parts), gs.empirical_ntk(model, x1, x2))


def test_a_tied_weight_may_be_named_by_either_name() -> None:
    model, x, _ = build("tied weights")
    one, other = (gs.empirical_ntk(model, x, parameters=[n]) for n in ("a.weight", "b.weight"))
    assert torch.equal(one, other)
    both = gs.empirical_ntk(model, x, parameters=["a.weight", "b.weight"])
    assert torch.equal(one, both)


def test_scalar_outputs_with_and_without_an_axis() -> None:
    model, x1, x2 = build("scalar")
    kernel = gs.empirical_ntk(model, x1, x2)
    assert kernel.shape == (5, 3, 1, 1)
    torch.testing.assert_close(kernel, gs.empirical_ntk(model[:3], x1, x2))
    for reduce in ("trace", "sum"):
        torch.testing.assert_close(
            kernel[:, :, 0, 0], gs.empirical_ntk(model, x1, x2, reduce=reduce)
        )


def test_one_example_and_noncontiguous_inputs() -> None:
    model, x1, _ = build("cnn stride")
    whole = gs.empirical_ntk(model, x1)
    torch.testing.assert_close(gs.empirical_ntk(model, x1[2:3], x1), whole[2:3])
    flipped = x1.transpose(2, 3).contiguous().transpose(2, 3)
    assert not flipped.is_contiguous()
    torch.testing.assert_close(gs.empirical_ntk(model, flipped), whole)
