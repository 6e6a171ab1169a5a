"""Models that use their parameters in every way the kernel has to follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """A convolutional block with a skip connection, normalization and in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)
        nn.init.uniform_(self.norm1.running_mean)
        nn.init.uniform_(self.norm1.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm1.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.norm1(self.conv1(x)))
        h = h + self.norm2(self.conv2(h))
        return self.head(h.mean((2, 3)))


class Tokens(nn.Module):
    """A causal transformer layer on tokens that reads its logits at the last position."""

    def __init__(self, tie: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.place = nn.Embedding(4, 6)
        self.norm = nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, 6, bias=False) for _ in range(3))
        self.wide, self.narrow = nn.Linear(6, 10), nn.Linear(10, 6)
        self.unembed = nn.Linear(6, 11, bias=False)
        if tie:
            self.unembed.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        z = self.norm(h)
        h = h + F.scaled_dot_product_attention(self.q(z), self.k(z), self.v(z), is_causal=True)
        h = h + self.narrow(F.gelu(self.wide(h)))
        return self.unembed(h)[:, -1]


class SharedModule(nn.Module):
    """One layer called three times, the last time on another number of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.first(x))))))
        pair = self.again(torch.stack([h, h.square()], dim=1))
        return self.last(torch.tanh(pair).sum(1))


class TiedLinears(nn.Module):
    """Two layers that share the weight, not the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))


class TiedTranspose(nn.Module):
    """An autoencoder whose decoder reads the encoder's weight in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encode(x)), self.encode.weight.T) * self.scale


class Recurrent(nn.Module):
    """A gated recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Attention(nn.Module):
    """A multi-head attention block, sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x.transpose(0, 1))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(h.mean(0))


class Folded(nn.Module):
    """Positions folded into the batch axis, in either order."""

    def __init__(self, positions_first: bool) -> None:
        super().__init__()
        self.positions_first = positions_first
        self.inner = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, s, d = x.shape
        h = x.transpose(0, 1) if self.positions_first else x
        h = torch.relu(self.inner(h.reshape(-1, d)))
        h = h.view(s, n, -1).transpose(0, 1) if self.positions_first else h.view(n, s, -1)
        return self.head(h * torch.arange(1, s + 1, dtype=x.dtype)[:, None]).sum(1)


class RawParameters(nn.Module):
    """No layers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.gain = nn.Parameter(torch.randn(()))
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x @ self.weight) * self.gain


class RawTransformer(nn.Module):
    """A vision transformer written with parameters: a class token, places, gains and matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.places = nn.Parameter(torch.randn(1, 4, 4))
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.gain = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        mixed = torch.softmax(h @ self.matrix @ h.transpose(1, 2), dim=2) @ h
        return self.head((h + self.gain * torch.tanh(mixed))[:, 0])


class Padded(nn.Module):
    """Embeddings with a padding token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=2)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(tokens)).sum(1))


def _cnn(**options: object) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), **options),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, groups=2, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    model[4].requires_grad_(False)
    return model


def _weight_norm() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)
    )


def _volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, (2, 1, 3), stride=(1, 2, 1)), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)
    )


def _sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, dilation=2, padding=2, padding_mode="circular"),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.Conv1d(4, 4, 3, groups=4, stride=2),
        nn.InstanceNorm1d(4, affine=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def _norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 3)
    )


# name -> (model, shape of one example); a shape of a single integer type is tokens below 7
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)), (5,)),
    "scalar": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0)),
        (5,),
    ),
    "cnn stride": (lambda: _cnn(stride=(2, 1), padding=(1, 0)), (2, 6, 5)),
    "cnn dilation": (lambda: _cnn(dilation=(1, 2), padding=1, padding_mode="reflect"), (2, 6, 5)),
    "cnn same": (lambda: _cnn(padding="same", padding_mode="replicate"), (2, 4, 5)),
    "conv1d": (_sequence, (3, 9)),
    "conv3d": (_volume, (1, 3, 3, 4)),
    "residual": (Residual, (2, 5, 4)),
    "norms": (_norms, (5,)),
    "transformer": (Tokens, (4,)),
    "tied embedding": (lambda: Tokens(tie=True), (4,)),
    "padding token": (Padded, (5,)),
    "shared module": (SharedModule, (5,)),
    "tied weights": (TiedLinears, (5,)),
    "tied transpose": (TiedTranspose, (5,)),
    "gru": (Recurrent, (6, 4)),
    "attention": (Attention, (3, 4)),
    "folded": (lambda: Folded(False), (3, 4)),
    "folded, positions first": (lambda: Folded(True), (3, 4)),
    "raw parameters": (RawParameters, (5,)),
    "raw transformer": (RawTransformer, (3, 4)),
    "frozen": (_frozen, (5,)),
    "weight norm": (_weight_norm, (5,)),
}
TOKENS = {"transformer", "tied embedding", "padding token"}


def build(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The model in float64 and evaluation mode, with batches of five and three examples."""
    make, shape = MODELS[name]
    model = make().double().eval()
    if name in TOKENS:
        x = torch.randint(7, (8, *shape))
    else:
        x = torch.randn(8, *shape, dtype=torch.float64)
        with torch.no_grad():
            model(x[:2])
    return model, x[:5], x[5:]
