"""Jacobian measures, kernels, penalty and monitor of networks of all kinds, against autograd.

Each is compared in float64 with one backward pass for each output of one example.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, rnn
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.batches import Batch, batch_size, leaf_at, rows, with_leaf, wrt_key
from grokscope.measures.view import outputs_of, wrt_of

LABELS = torch.arange(9) % 2


def numbers(*shape: int) -> Callable[[int], Batch]:
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


class Segmentation(nn.Module):
    """A small U-Net with logits for every pixel, of which it returns the mean of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.leave = nn.Conv2d(8, 3, 1)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = F.silu(self.norm(self.down1(x)))
        second = F.silu(self.down2(F.avg_pool2d(first, 2)))
        whole = F.interpolate(self.up(second), scale_factor=1, mode="nearest")
        pixels = self.leave(torch.cat([first, whole], dim=1))
        return {"pixels": pixels, "logits": pixels.square().mean((2, 3))}


class Packed(nn.Module):
    """An LSTM on sequences of several lengths, by a packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


def sequences(n: int) -> Batch:
    return {"x": torch.randn(n, 5, 3, dtype=torch.float64), "lengths": torch.arange(n) % 5 + 1}


class Mixture(nn.Module):
    """Experts that are chosen by the two largest gates, most of which few examples reach."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 5)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)) for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(1).topk(2, dim=1)
        out = x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            mine, slot = (chosen == i).nonzero(as_tuple=True)
            if len(mine):
                out = out.index_add(0, mine, weights[mine, slot, None] * expert(x[mine]))
        return out


class Shared(nn.Module):
    """A weight that is used three times: twice as it is, once transposed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.square(x).tanh() @ self.square.weight
        return self.leave(self.square(h).sigmoid())


class Spectral(nn.Module):
    """Complex layers between real numbers: a spectrum is scaled by weights of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.head = nn.Parameter(torch.randn(4, 2)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x) * torch.view_as_complex(self.parts)
        return self.head(torch.fft.irfft(spectrum, n=6).tanh())


class InPlace(nn.Module):
    """Operations that write into what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu_(self.enter(x))
        h = h.clone().mul_(2).add_(self.shift)
        h[:, 0] *= h[:, 1].detach().clone()
        return self.leave(h.sin_())


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, pre-norm blocks of attention and GELU."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], dim=1) + self.places
        for i in range(2):
            q, k, v = (
                part.unflatten(2, (2, -1)).transpose(1, 2)
                for part in self.qkv[i](self.norms[2 * i](h)).chunk(3, dim=2)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            h = h + self.out[i](mixed)
            h = h + self.mlp[i](self.norms[2 * i + 1](h))
        return self.head(self.norms[4](h)[:, 0])


class Renormalized(nn.Module):
    """Numbers next to tokens whose embeddings a forward pass shortens where they are long."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3, max_norm=0.5)
        self.head = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        return self.head(torch.cat([x, self.embed(token)], dim=1))


def with_tokens(n: int) -> Batch:
    return torch.randn(n, 4, dtype=torch.float64), torch.randint(7, (n,))


class Checkpointed(nn.Module):
    """A part that is run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        run = torch.utils.checkpoint.checkpoint
        return self.leave(run(lambda h: self.enter(h).tanh(), x, use_reentrant=False))


class TwoParts(nn.Module):
    """An output of a named tuple and an input that is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Bilinear(4, 2, 3)

    def forward(self, x: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        return (self.left(x) * self.right(x, side)).tanh(), side


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def compiled_by_itself(model: nn.Sequential) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def compiled_part(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(model[0], torch.compile(model[1:], backend="aot_eager"))


def sharded(model: nn.Sequential) -> nn.Module:
    for layer in (model[0], model[2]):
        fully_shard(layer)
    return fully_shard(model)


def adapted() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False)
    return peft.get_peft_model(plain(), config)


def convolutions() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, groups=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(4, 3),
    )  # fmt: skip
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    return model.to(memory_format=torch.channels_last)


def normalized(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(wrap(nn.Linear(4, 6)), nn.Tanh(), wrap(nn.Linear(6, 3)))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Batch]]] = {
    "segmentation": (Segmentation, numbers(2, 4, 4)),
    "packed lstm": (Packed, sequences),
    "mixture": (Mixture, numbers(4)),
    "shared weight": (Shared, numbers(4)),
    "complex inside": (Spectral, numbers(6)),
    "in place": (InPlace, numbers(4)),
    "vision transformer": (VisionTransformer, numbers(1, 4, 4)),
    "max_norm": (lambda: gs.View(Renormalized(), wrt=0), with_tokens),
    "checkpointed": (Checkpointed, numbers(4)),
    "a tuple of two": (
        lambda: gs.View(TwoParts(), wrt=0),
        lambda n: [torch.randn(n, 4).double(), torch.randn(n, 2).double()],
    ),
    "channels last": (convolutions, numbers(2, 6, 5)),
    "old weight norm": (normalized(nn.utils.weight_norm), numbers(4)),
    "weight norm": (normalized(parametrizations.weight_norm), numbers(4)),
    "old spectral norm": (normalized(nn.utils.spectral_norm), numbers(4)),
    "spectral norm": (normalized(parametrizations.spectral_norm), numbers(4)),
    "orthogonal": (
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 3)),
        numbers(4),
    ),
    "low-rank adapters": (adapted, numbers(4)),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 1)), numbers(4)),
}


# name -> how a network is wrapped, so that it stays the function that it is
WRAPPED: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="aot_eager"),  # type: ignore[return-value]
    "compiled by itself": compiled_by_itself,
    "a compiled part": compiled_part,
    "data parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "sharded": sharded,
}


def built(name: str) -> tuple[nn.Module, Batch, Batch]:
    """The model in float64 and evaluation mode, and two batches of it."""
    torch.manual_seed(0)
    make, batch = MODELS[name]
    model = make().double().eval()
    with torch.no_grad():
        outputs_of(model, batch(3))
    return model, batch(9), batch(4)


def derivatives(model: nn.Module, x: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (n, k), their derivatives by the input (n, k, d) and by the parameters (n, k, p)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    key, outputs, by_input, by_weights = wrt_key(x, wrt_of(model)), [], [], []
    for i in range(batch_size(x)):
        one = rows(x, slice(i, i + 1))
        leaf = leaf_at(one, key).clone().requires_grad_()
        out = outputs_of(model, with_leaf(one, key, leaf)).reshape(-1)
        for output in out:
            grads = torch.autograd.grad(
                output, [leaf, *parameters], retain_graph=True, materialize_grads=True
            )
            dense = [grad.to_dense() if grad.is_sparse else grad for grad in grads]
            by_input.append(dense[0].flatten())
            by_weights.append(torch.cat([grad.flatten() for grad in dense[1:]]))
        outputs.append(out.detach())
    shape = (batch_size(x), -1)
    return (
        torch.stack(outputs),
        torch.stack(by_input).view(*shape, by_input[0].numel()),
        torch.stack(by_weights).view(*shape, by_weights[0].numel()),
    )


def penalty_gradient(model: nn.Module, x: Batch) -> list[Tensor]:
    """Of the mean squared norm of the Jacobian, one example at a time, by parameter."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    key, total = wrt_key(x, wrt_of(model)), [torch.zeros_like(p) for p in parameters]
    for i in range(batch_size(x)):
        one = rows(x, slice(i, i + 1))
        leaf = leaf_at(one, key).clone().requires_grad_()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            out = outputs_of(model, with_leaf(one, key, leaf)).reshape(-1)
        squares = [
            torch.autograd.grad(output, leaf, create_graph=True)[0].square().sum() for output in out
        ]
        whole = torch.stack(squares).sum() / batch_size(x)
        grads = torch.autograd.grad(whole, parameters, materialize_grads=True)
        total = [old + grad for old, grad in zip(total, grads, strict=True)]
    return total


def close(found: Any, expected: Any) -> None:
    assert_close(found, expected, rtol=1e-7, atol=1e-9)


IGNORED = pytest.mark.filterwarnings(
    "ignore:.*weight_norm:FutureWarning",
    "ignore:.*donated:UserWarning",
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:the structured path does not cover:RuntimeWarning",
    "ignore:.*not yet implemented the batching rule:UserWarning",
)


def is_sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor, or all of one that is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def compare(model: nn.Module, plain: nn.Module, x1: Batch, x2: Batch) -> None:
    """Every measure of the model against the derivatives of what it wraps, or of itself."""
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    outputs, by_input, by_weights = derivatives(plain, x1)
    others = derivatives(plain, x2)[2]
    expected = penalty_gradient(plain, x1)
    plain.load_state_dict(before)
    row = compare_jacobians(model, x1, outputs, by_input)
    length = torch.cat([p.detach().flatten() for p in plain.parameters()]).norm()
    close(row["weight_norm"], float(length))
    if is_sharded(model):
        with pytest.raises(ValueError, match=r"'0\.weight' is distributed over processes"):
            gs.empirical_ntk(model, x1, x2)
    else:
        compare_kernels(model, x1, x2, by_weights, others)
    for (key, value), old in zip(model.state_dict().items(), before.values(), strict=True):
        assert torch.equal(whole(value), old), f"{key} was changed"
    if is_sharded(model):
        with pytest.raises(ValueError, match="train with DistributedDataParallel"):
            gs.jacobian_penalty(model, x1)
    else:
        compare_penalty(model, x1, expected)


def compare_penalty(model: nn.Module, x: Batch, expected: list[Tensor]) -> None:
    gs.jacobian_penalty(model, x, projections=None).backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    pairs = zip(found, expected, strict=True)
    close([torch.zeros_like(e) if g is None else g for g, e in pairs], expected)


def compare_jacobians(
    model: nn.Module, x: Batch, outputs: Tensor, jacobian: Tensor
) -> dict[str, Any]:
    """The measures one by one, and the same in a row of a monitor, which is returned."""
    point = leaf_at(x, wrt_key(x, wrt_of(model))).flatten(1)
    centroid = jacobian.sum(1)
    spectrum = torch.linalg.svdvals(jacobian).square()
    alignment = F.cosine_similarity(jacobian, point[:, None], dim=2)
    measures: dict[Callable[..., Tensor], Tensor] = {
        gs.jacobian_norm: jacobian.flatten(1).norm(dim=1),
        gs.jacobian_alignment: alignment,
        gs.jacobian_pc1: spectrum[:, 0] / spectrum.sum(1),
        gs.centroid_alignment: F.cosine_similarity(centroid, point, dim=1),
        gs.centroid_inner_product: (centroid * point).sum(1),
    }
    row = gs.Monitor(model, probe=(x, LABELS), exact=True, scores=None).step(0)
    assert row is not None
    for measure, expected in measures.items():
        close(measure(model, x), expected)
        close(row[measure.__name__], float(expected.mean()))
    close(row["row_alignment"], float(alignment.abs().amax(1).mean()))
    close(row["centroid_norm"], float(centroid.norm(dim=1).mean()))
    close(gs.input_jacobian(model, x).flatten(2), jacobian)
    close(gs.input_jacobian(model, x, chunk_size=2).flatten(2), jacobian)
    close(gs.centroids(model, x).flatten(1), centroid)
    offset = outputs - torch.einsum("nkd,nd->nk", jacobian, point)
    close(gs.affine_map(model, x)[1], offset)
    return row


def compare_kernels(
    model: nn.Module, x1: Batch, x2: Batch, by_weights: Tensor, others: Tensor
) -> None:
    kernel = torch.einsum("aip,bjp->abij", by_weights, others)
    trace = kernel.diagonal(dim1=2, dim2=3).mean(2)
    close(gs.empirical_ntk(model, x1, x2), kernel)
    close(gs.empirical_ntk(model, x1, x2, reduce="trace"), trace)
    close(gs.empirical_ntk(model, x1, x2, reduce="sum", chunk_size=4), kernel.sum((2, 3)))
    close(gs.empirical_ntk(model, x1), torch.einsum("aip,bjp->abij", by_weights, by_weights))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.barrier()  # or its threads may wait for the lock that their end holds
    dist.destroy_process_group()


@IGNORED
@pytest.mark.parametrize("name", MODELS)
def test_every_measure_is_what_autograd_says(name: str) -> None:
    model, x1, x2 = built(name)
    compare(model, copy.deepcopy(model), x1, x2)


@IGNORED
@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_network_is_the_network(name: str, process_group: None) -> None:
    torch.manual_seed(0)
    model = plain().double()
    wrapped = WRAPPED[name](copy.deepcopy(model))
    wrapped(torch.randn(9, 4).double())
    compare(wrapped, model, torch.randn(9, 4).double(), torch.randn(4, 4).double())
