"""Kernels of the networks that people have, against one backward pass for each output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import grokscope as gs
from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.view import outputs_of


def kernel_by_autograd(model: nn.Module, x1: Batch, x2: Batch) -> Tensor:
    """(n1, n2, k, k), one example and one output at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def jacobian(x: Batch) -> Tensor:
        found = []
        for i in range(batch_size(x)):
            for output in outputs_of(model, rows(x, slice(i, i + 1))).reshape(-1):
                grads = torch.autograd.grad(
                    output, parameters, retain_graph=True, materialize_grads=True
                )
                found.append(torch.cat([g.flatten() for g in grads]))
        return torch.stack(found).view(batch_size(x), -1, found[0].numel())

    return torch.einsum("aip,bjp->abij", jacobian(x1), jacobian(x2))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(4, 5, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1))


class Experts(nn.Module):
    """A mixture of which each example takes one; the last expert sees one of twelve examples."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))
        self.gate = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(1)
        choice = (x[:, 0] > 0).long() + (x[:, 0] > 10).long()
        out = x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            mine = (choice == k).nonzero()[:, 0]
            if len(mine):
                out = out.index_add(0, mine, weights[mine, k : k + 1] * expert(x[mine]))
        return out


class Owner(nn.Linear):
    """A Linear with one more parameter of its own."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.gain = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh() * self.gain


class Cross(nn.Module):
    """Attention from one tensor of the batch to another, with a padding mask of each example."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.place = nn.Parameter(torch.randn(3, 4))

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Any:
        mixed = self.attention(q + self.place, k, k, key_padding_mask=mask)[0]
        return {"logits": mixed[:, -1]}


class Functional(nn.Module):
    """A forward that multiplies by its parameters itself, as Hugging Face's Conv1D does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.matrix = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.addmm(self.bias, x.view(-1, 4), self.weight).view(*x.shape[:-1], 6)
        return (h.tanh() @ self.matrix).sum(1)


def test_products_in_a_models_own_code_are_followed_like_layers() -> None:
    plan = gs.ntk_plan(Functional().double(), torch.randn(7, 5, 4, dtype=torch.float64))
    paths = {name: own.path for name, own in plan.parameters.items()}
    assert paths == dict.fromkeys(("weight", "bias", "matrix"), "structured")


def mask_of(n: int) -> Tensor:
    return torch.arange(5) >= torch.randint(1, 6, (n, 1))


def numbers(*shape: int) -> Callable[[int], Batch]:
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


def rare(n: int) -> Batch:
    x = torch.randn(n, 4, dtype=torch.float64)
    x[-2, 0] = 20
    return x


def crossed(n: int) -> Batch:
    q, k = torch.randn(n, 3, 4, dtype=torch.float64), torch.randn(n, 5, 4, dtype=torch.float64)
    return {"q": q, "k": k, "mask": mask_of(n)}


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))


# name -> the model, a batch of n examples, and whether all parameters are structured
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Batch], bool]] = {
    "lstm": (lambda: Recurrent(nn.LSTM), numbers(6, 4), True),
    "lstm, both ways": (lambda: Recurrent(nn.LSTM, bidirectional=True), numbers(6, 4), True),
    "lstm without biases": (lambda: Recurrent(nn.LSTM, bias=False), numbers(6, 4), True),
    "gru": (lambda: Recurrent(nn.GRU, bidirectional=True), numbers(6, 4), True),
    "rnn": (lambda: Recurrent(nn.RNN), numbers(6, 4), True),
    "relu rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), numbers(6, 4), True),
    "lstm with a projection": (lambda: Recurrent(nn.LSTM, proj_size=3), numbers(6, 4), False),
    "experts": (Experts, rare, False),
    "a further parameter": (Owner, numbers(4), False),
    "cross attention": (Cross, crossed, False),
    "attention with widths of its own": (lambda: Cross(kdim=4, vdim=4), crossed, False),
    "functional": (Functional, numbers(3, 4), True),
    "convolution and BatchNorm": (residual, numbers(2, 5, 5), True),
    "encoder layer": (encoder, numbers(3, 4), True),
    "old weight norm": (
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)),
        numbers(4),
        False,
    ),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))),
        numbers(4),
        False,
    ),
}


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm.:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_kernels_of_all_kinds_of_models(name: str) -> None:
    torch.manual_seed(0)
    make, batch, structured = MODELS[name]
    model = make().double().eval()
    if name == "lstm with a projection":
        model.head = nn.Linear(3, 3).double()
    x1, x2 = batch(12), batch(4)
    outputs_of(model, x1)
    expected = kernel_by_autograd(model, x1, x2)
    assert_close(gs.empirical_ntk(model, x1, x2), expected, rtol=1e-8, atol=1e-9)
    assert_close(
        gs.empirical_ntk(model, x1, x2, reduce="sum", chunk_size=5),
        expected.sum((2, 3)),
        rtol=1e-8,
        atol=1e-9,
    )
    paths = {p.path for p in gs.ntk_plan(model, x1).parameters.values()}
    assert (paths == {"structured"}) == structured


def test_hugging_face_models_by_small_configs() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"vocab_size": 13, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).double().eval()
    last = gs.View(gpt2, lambda m, b: m(**b).logits[:, -1, :3])
    ids = torch.randint(13, (6, 5))
    mask = torch.ones(6, 5, dtype=torch.long)
    mask[::2, :2] = 0  # padded on the left, so that the last position counts
    x = {"input_ids": ids, "attention_mask": mask}
    assert_close(gs.empirical_ntk(last, x), kernel_by_autograd(last, x, x), rtol=1e-7, atol=1e-9)
    plan = gs.ntk_plan(last, x)
    generic = [name for name, p in plan.parameters.items() if p.path == "generic"]
    assert all("wte" in name or "wpe" in name for name in generic)
    assert len(str(plan).splitlines()) < len(plan.parameters)
    config = transformers.BertConfig(
        vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, num_labels=3,
    )  # fmt: skip
    bert = transformers.BertForSequenceClassification(config).double().eval()
    assert_close(gs.empirical_ntk(bert, x), kernel_by_autograd(bert, x, x), rtol=1e-7, atol=1e-9)


def test_a_frozen_base_with_low_rank_adapters() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert_close(gs.empirical_ntk(model, x), kernel_by_autograd(model, x, x))
    plan = gs.ntk_plan(model, x).parameters
    assert {p.path for n, p in plan.items() if "lora" in n} == {"structured"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_contracted_in_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(20, 4).to(dtype)
    half = gs.empirical_ntk(model.to(dtype), x)
    assert half.dtype == torch.float32
    exact = kernel_by_autograd(model.double(), x.double(), x.double())
    assert float((half - exact).norm() / exact.norm()) < 0.02


def test_autocast_around_the_call_does_not_matter() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(20, 4)
    expected = gs.empirical_ntk(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gs.empirical_ntk(model, x), expected)


def test_a_mask_held_by_a_closure_is_refused_and_one_in_the_batch_is_right() -> None:
    torch.manual_seed(0)
    model, x = Cross().double().eval(), crossed(12)
    held = x["mask"]
    closed = gs.View(model, lambda m, b: m(b["q"], b["k"], held[: len(b["q"])]))
    batch = {"q": x["q"], "k": x["k"]}
    with pytest.raises(ValueError, match=r"model's output for x1\[\d+\] depends on the rest"):
        gs.empirical_ntk(closed, batch)
    exactly = gs.View(model, lambda m, b: m(b["q"], b["k"], held))
    with pytest.raises(ValueError, match=r"does not run on"):
        gs.empirical_ntk(exactly, batch)
    assert_close(gs.empirical_ntk(model, x), kernel_by_autograd(model, x, x))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).detach()


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.inner, self.first(x), use_reentrant=True))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.phase).real


class ComplexOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(self.inner(x), self.inner(x))


REFUSED: dict[str, tuple[Callable[[], nn.Module], type[Exception], str]] = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), ValueError, "of a lazy layer"),
    "meta": (lambda: nn.Linear(4, 3, device="meta"), ValueError, "on the meta device"),
    "detached": (Detached, ValueError, "carry no gradient to its parameters"),
    "complex parameter": (Complex, ValueError, "the complex parameter 'phase'"),
    "complex outputs": (ComplexOutputs, TypeError, "real floating-point outputs: got torch.comp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_a_kernel_are_named(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        gs.empirical_ntk(make(), torch.randn(5, 4))


@pytest.mark.filterwarnings("ignore")
def test_scripted_and_compiled_models() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    expected = gs.empirical_ntk(net, x)
    with pytest.raises(ValueError, match="a ScriptModule at 'the top'"):
        gs.empirical_ntk(torch.jit.trace(net, x), x)
    wrapped = torch.compile(net, backend="aot_eager")
    wrapped(x)
    assert_close(gs.empirical_ntk(wrapped, x), expected)
    assert list(gs.ntk_plan(wrapped, x).parameters) == [n for n, _ in net.named_parameters()]
    part = nn.Sequential(torch.compile(net[0], backend="aot_eager"), net[1], net[2])
    part(x)
    assert_close(gs.empirical_ntk(part, x), expected)
    net.compile(backend="aot_eager")
    net(x)
    assert_close(gs.empirical_ntk(net, x), expected)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_named() -> None:
    with pytest.raises(ValueError, match="use_reentrant=False"):
        gs.empirical_ntk(Reentrant(), torch.randn(5, 4))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        gs.input_jacobian(Reentrant(), torch.randn(5, 4))


def test_an_embedding_that_renormalizes_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 3)).double()
    before = model[0].weight.detach().clone()
    gs.empirical_ntk(model, torch.randint(7, (5, 2)))
    assert torch.equal(model[0].weight, before)


class Empty(nn.Module):
    """Parameters without numbers, of which two layers are made."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing_in, self.nothing_out = nn.Linear(0, 3), nn.Linear(4, 0)
        self.body, self.spare = nn.Linear(4, 3), nn.Parameter(torch.ones(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        nothing = self.nothing_out(x)
        return self.body(x).tanh() + self.nothing_in(nothing) + nothing.sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("reduce", ["full", "trace"])
def test_parameters_without_numbers_have_no_part(reduce: Any) -> None:
    model, x = Empty().double(), torch.randn(6, 4).double()
    exact = kernel_by_autograd(model, x, x)
    exact = exact if reduce == "full" else exact.diagonal(dim1=2, dim2=3).mean(2)
    assert_close(gs.empirical_ntk(model, x, reduce=reduce), exact)
    plan = gs.ntk_plan(model, x, reduce).parameters
    assert [n for n, p in plan.items() if p.path == "unused"] == [
        "spare", "nothing_in.weight", "nothing_out.weight", "nothing_out.bias"
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is deprecated. Please switch to:DeprecationWarning")
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_parameters_go_by_their_names_in_a_wrapper_too(wrap: Callable[..., nn.Module]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 4)
    wrapped = wrap(model)
    inside, outside = (next(iter(dict(m.named_parameters()))) for m in (model, wrapped))
    assert inside != outside
    expected = gs.empirical_ntk(model, x, parameters=[inside])
    for name in (inside, outside):
        assert_close(gs.empirical_ntk(wrapped, x, parameters=[name]), expected)
    assert list(gs.ntk_plan(wrapped, x, parameters=[outside]).parameters) == [inside]
