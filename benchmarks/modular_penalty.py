"""At what weight, if any, does GrokAlign make a transformer with frozen embeddings grok?

    python benchmarks/modular_penalty.py [--modulus 113] [--seconds 300] [--tf32] [--out FILE]

Trains ``gs.Transformer`` in every condition of `CONDITIONS` at once, each network with its own
initialization, split and penalty, by ``torch.func`` over a leading axis of networks: for a GPU. The
setting is that of GrokAlign's Figures 8 and 9 (Walker et al. 2025; Nanda et al. 2023): 30 % of all
pairs as one batch, AdamW with lr 1e-3, weight decay 1, betas (0.9, 0.98), ten steps of warm-up,
cross-entropy of a float64 log-softmax, the penalty at the embeddings of all training pairs from one
random projection each: the mean norm of the Jacobian as in the authors' code ("root"), or of its
square as in the text. Frozen are the embedding and the unembedding, as in the text, or the
embedding alone, as in the authors' script.

It ends at ``--steps`` or after ``--seconds``. Written are accuracies on training pairs, test pairs
and pairs unseen in either order, the mean Jacobian norm and Gini coefficients at logarithmic steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vjp, vmap
from torch.nn import functional as F

from grokscope.data.modular import load_modular, unseen_in_either_order
from grokscope.measures.fourier import fourier_gini
from grokscope.models.transformer import Transformer

WARMUP = 10


class Condition(NamedTuple):
    """One network: what is frozen, which penalty, and the seed of weights and split."""

    frozen: str  # "both", "embedding" or "none"
    kind: str  # "root" or "squared"
    weight: float
    seed: int


def conditions(seeds: int) -> list[Condition]:
    """Every network that is trained."""
    plan: list[tuple[str, str, list[float], int]] = [
        ("both", "root", [0.0, 1e-4, 1e-3, 1e-2, 1e-1], seeds),
        ("both", "squared", [1e-4, 1e-3, 1e-2], 1),
        ("embedding", "root", [0.0, 1e-3, 1e-2], seeds),
        ("none", "root", [0.0, 1e-3], seeds),
    ]
    return [
        Condition(frozen, kind, weight, seed)
        for frozen, kind, weights, repeats in plan
        for weight, seed in product(weights, range(repeats))
    ]


class Networks:
    """Transformers with a leading axis, their data and their optimizer."""

    def __init__(
        self, chosen: list[Condition], modulus: int, sizes: dict[str, Any], device: str
    ) -> None:
        self.chosen, self.modulus = chosen, modulus
        models = [Transformer(modulus, **sizes, seed=one.seed) for one in chosen]
        self.model = Transformer(modulus, **sizes).to(device)
        stacked = stack_module_state(models)[0]
        self.parameters = {k: v.detach().to(device).clone() for k, v in stacked.items()}
        self.initial = {k: self.parameters[k].clone() for k in ("embed.weight", "unembed.weight")}
        splits = [
            load_modular(modulus, encoding="tokens", equals=True, seed=one.seed) for one in chosen
        ]
        self.x, self.y, self.test_x, self.test_y = (
            torch.stack([getattr(split, name) for split in splits]).to(device)
            for name in ("train_x", "train_y", "test_x", "test_y")
        )
        # A product with one-hot codes, as the gradient of an index is a loop under vmap.
        self.one_hot = F.one_hot(self.x, modulus + 1).to(self.model.embed.weight.dtype)
        self.unseen = torch.stack(
            [unseen_in_either_order(split.train_x, split.test_x, modulus) for split in splits]
        ).to(device)

        def column(values: list[Any]) -> Tensor:
            return torch.tensor(values, device=device)

        self.weight = column([one.weight for one in chosen])
        self.root = column([one.kind == "root" for one in chosen])
        frozen = {
            "embed.weight": column([one.frozen != "none" for one in chosen]),
            "unembed.weight": column([one.frozen == "both" for one in chosen]),
        }
        self.frozen = {name: mask[:, None, None] for name, mask in frozen.items()}
        self.lr = torch.tensor(0.0, device=device)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=self.lr,
            weight_decay=1.0,
            betas=(0.9, 0.98),
            capturable=device == "cuda",
        )
        self.gradients: Callable[..., Any] = vmap(grad(self._loss, has_aux=True))
        self.outputs = vmap(lambda p, x: functional_call(self.model, p, (x,)))

    def _loss(
        self, p: dict[str, Tensor], x: Tensor, y: Tensor, u: Tensor, weight: Tensor, root: Tensor
    ) -> tuple[Tensor, Tensor]:
        embedded = x @ p["embed.weight"]
        cross_entropy = F.cross_entropy(functional_call(self.model, p, (embedded,)).double(), y)
        # the embeddings are a constant to the penalty
        outputs, pull, *_ = vjp(lambda e: functional_call(self.model, p, (e,)), embedded.detach())
        (row,) = pull(u * outputs.shape[1] ** 0.5)
        squares = row.flatten(1).square().sum(1)
        norm = squares.clamp_min(1e-8).sqrt().mean()
        penalty = torch.where(root, norm, squares.mean())
        return cross_entropy + weight * penalty, norm

    def step(self, number: int) -> Tensor:
        """One step of all networks; their mean Jacobian norms."""
        u = F.normalize(torch.randn(*self.y.shape, self.modulus, device=self.y.device), dim=2)
        gradients, norms = self.gradients(
            self.parameters, self.one_hot, self.y, u, self.weight, self.root
        )
        self.lr.fill_(1e-3 * min(1.0, (number + 1) / WARMUP))
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()
        for name, mask in self.frozen.items():
            parameter = self.parameters[name]
            parameter.copy_(torch.where(mask, self.initial[name], parameter))
        return norms

    @torch.no_grad()
    def scores(self) -> dict[str, list[float]]:
        """Accuracies and Gini coefficients, one for each network."""
        right = self.outputs(self.parameters, self.test_x).argmax(2) == self.test_y
        train = self.outputs(self.parameters, self.x).argmax(2) == self.y
        unseen = (right & self.unseen).sum(1) / self.unseen.sum(1)
        embeddings = self.parameters["embed.weight"][:, : self.modulus]
        neuron_logit = self.parameters["unembed.weight"] @ self.parameters["mlp_out.weight"]
        found = {
            "train_accuracy": train.double().mean(1),
            "test_accuracy": right.double().mean(1),
            "unseen_accuracy": unseen,
            "embedding_gini": self._gini(embeddings),
            "neuron_logit_gini": self._gini(neuron_logit),
        }
        return {name: [round(float(v), 4) for v in values] for name, values in found.items()}

    def _gini(self, weights: Tensor) -> Tensor:
        return torch.stack([fourier_gini(weight, self.modulus) for weight in weights])


def schedule(steps: int) -> list[int]:
    """Some 12 steps a decade."""
    return sorted({0, *(round(10 ** (i / 12)) for i in range(12 * 6)), steps})


def trained(
    networks: Networks, steps: int, seconds: float, log: Callable[[str], None]
) -> tuple[list[dict[str, Any]], int]:
    """Rows of scores at logarithmic steps, until the steps or the seconds are over."""
    begun, rows, due = time.monotonic(), [], iter(schedule(steps))
    wanted, norms = next(due), torch.zeros(len(networks.chosen))
    for number in range(steps + 1):
        over = number == steps or time.monotonic() - begun > seconds
        if number >= wanted or over:
            scores = networks.scores()
            scores["jacobian_norm"] = [round(float(v), 4) for v in norms]
            rows.append({"step": number, **scores})
            wanted = next(due, steps)
            best = max(scores["unseen_accuracy"])
            log(f"{number} {time.monotonic() - begun:.0f} s, best on unseen pairs {best:.3f}")
        if over:
            return rows, number
        norms = networks.step(number)
    return rows, steps


def main() -> None:
    """Train, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modulus", type=int, default=113)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=48_000)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--sizes", type=json.loads, default={}, help="such as '{\"d_model\": 48}'")
    parser.add_argument("--tf32", action="store_true", help="matrix products in TF32")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/modular_penalty.json"))
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = chosen.tf32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = Networks(conditions(chosen.seeds), chosen.modulus, chosen.sizes, device)
    rows, steps = trained(networks, chosen.steps, chosen.seconds, print)
    record = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "tf32": chosen.tf32,
        "modulus": chosen.modulus,
        "sizes": chosen.sizes,
        "steps": steps,
        "conditions": [one._asdict() for one in networks.chosen],
        "rows": rows,
    }
    chosen.out.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
