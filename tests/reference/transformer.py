"""The transformer of Nanda et al. 2023, as it is written in textbooks: every position, masked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def transformer(weights: Mapping[str, Tensor], e: Tensor, num_heads: int) -> Tensor:
    """Outputs at the last position of embeddings (n, length, d), one example and head at a time."""
    outputs = []
    for example in e:
        h = example + weights["positions"]
        length, d = h.shape
        size = d // num_heads
        heads = []
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            q, k, v = (h @ weights[f"{name}.weight"][part].T for name in ("query", "key", "value"))
            scores = q @ k.T / size**0.5
            future = torch.ones(length, length).triu(1).bool()
            heads.append(scores.masked_fill(future, -torch.inf).softmax(1) @ v)
        z = h + torch.cat(heads, 1) @ weights["attention_out.weight"].T
        neurons = torch.relu(z @ weights["mlp_in.weight"].T + weights["mlp_in.bias"])
        z = z + neurons @ weights["mlp_out.weight"].T + weights["mlp_out.bias"]
        outputs.append((z @ weights["unembed.weight"].T)[-1])
    return torch.stack(outputs)
