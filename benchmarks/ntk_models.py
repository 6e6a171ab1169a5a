"""The networks of the kernel benchmark, in PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class OneLayerTransformer(nn.Module):
    """The modular-addition transformer: three tokens in, logits of the last position out."""

    def __init__(self, modulus: int = 113, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(modulus + 1, width)
        self.place = nn.Parameter(torch.randn(3, width) / width**0.5)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.unembed = nn.Linear(width, modulus, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, modulus) of tokens (n, 3)."""
        h = self.embed(tokens) + self.place
        n, s, d = h.shape
        q, k, v = (
            layer(h).view(n, s, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(2, 3) / (d / self.heads) ** 0.5
        future = torch.ones(s, s, dtype=torch.bool, device=h.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(3)
        h = h + self.o((weights @ v).transpose(1, 2).reshape(n, s, d))
        h = h + self.narrow(torch.relu(self.wide(h)))
        return self.unembed(h[:, -1])


def mlp(*widths: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """Six 3x3 convolutions with a pool after each pair, and two linear layers."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(fan_out, fan_out, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


def small_gpt2() -> nn.Module:
    """A GPT-2 of Hugging Face's with a vocabulary of bytes; its logits at the last position."""
    import transformers

    import grokscope as gs

    config = transformers.GPT2Config(
        vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    return gs.View(model, lambda m, tokens: m(tokens).logits[:, -1])
