"""The one-layer transformer that learns modular arithmetic (Nanda et al. 2023, arXiv:2301.05217).

It reads the tokens a, b and "=" and says a o b mod p at the last position. Two facts make its
forward pass cheap without changing a number. Only the last position is read, so it is the only
query, and neither the attention nor the MLP runs elsewhere. And there are few tokens: keys, values
and queries are products of the rows of a table of tokens at positions, 3 (p + 1) of them, instead
of n times 3 positions. At p = 113, where n = 3,831 examples form the batch, a training step takes
about half the time of the plain one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.view import Model, unwrapped
from grokscope.models.mlp import activation_class, check_size
from grokscope.models.seeding import seeded_initialization


class Transformer(nn.Module):
    """One layer of causal attention and an MLP, without LayerNorm, read at the last position.

    With e the embeddings of an example's tokens, h = e + positions and a the attention of the last
    position to all, outputs = unembed(z + mlp_out(activation(mlp_in(z)))), z = h_last + a. Biases
    are in the MLP alone. Weights are drawn as in Nanda et al.'s code: Gaussian with variance
    1 / d_model, of the unembedding 1 / modulus, biases zero.

    Its modules are ``embed``, ``query``, ``key``, ``value``, ``attention_out``, ``mlp_in``,
    ``activation``, ``mlp_out`` and ``unembed``, and ``positions`` is a parameter.

    What is differentiated by inputs (Jacobian measures, penalties) is taken at the embeddings of
    the tokens, before positions are added.

    Args:
        modulus: p, outputs, and tokens besides the equals sign, which is token p.
        d_model: width of the residual stream.
        num_heads: attention heads, each of d_model / num_heads numbers.
        d_mlp: neurons of the MLP.
        length: tokens of an example; 2 where there is no equals sign.
        activation: one of ``ACTIVATIONS``, or a module class to be called without arguments.
        seed: initialize from it, on the CPU, and leave the global random state alone; None draws
            from the global random state, as PyTorch's own modules do.

    Raises:
        ValueError: if a size is not a positive integer, ``num_heads`` does not divide ``d_model``,
            or the activation is not known.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.Transformer(7, d_model=16, num_heads=4, d_mlp=32, seed=0)
        >>> tokens = torch.tensor([[3, 5, 7], [0, 6, 7]])
        >>> model(tokens).shape, gs.centroids(model, tokens).shape
        (torch.Size([2, 7]), torch.Size([2, 3, 16]))
    """

    @checked_arguments
    def __init__(
        self,
        modulus: int,
        *,
        d_model: int = 128,
        num_heads: int = 4,
        d_mlp: int = 512,
        length: int = 3,
        activation: str | type[nn.Module] = "relu",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"modulus": modulus, "d_model": d_model, "num_heads": num_heads, "d_mlp": d_mlp}
        for name, size in {**sizes, "length": length}.items():
            check_size(name, size)
        if d_model % num_heads:
            raise ValueError(
                f"num_heads must divide d_model: got num_heads={num_heads} and d_model={d_model}"
            )
        self.modulus = modulus
        self.num_heads = num_heads
        make_activation = activation_class(activation)
        with seeded_initialization(seed):
            self.embed = nn.Embedding(modulus + 1, d_model)
            self.positions = nn.Parameter(torch.randn(length, d_model) / d_model**0.5)
            self.query = nn.Linear(d_model, d_model, bias=False)
            self.key = nn.Linear(d_model, d_model, bias=False)
            self.value = nn.Linear(d_model, d_model, bias=False)
            self.attention_out = nn.Linear(d_model, d_model, bias=False)
            self.mlp_in = nn.Linear(d_model, d_mlp)
            self.activation = make_activation()
            self.mlp_out = nn.Linear(d_mlp, d_model)
            self.unembed = nn.Linear(d_model, modulus, bias=False)
            self._draw_weights()

    def _draw_weights(self) -> None:
        d_model = self.embed.embedding_dim
        for module in self.children():
            if isinstance(module, nn.Embedding | nn.Linear):
                fan = self.modulus if module is self.unembed else d_model
                nn.init.normal_(module.weight, std=fan**-0.5)
        nn.init.zeros_(self.mlp_in.bias)
        nn.init.zeros_(self.mlp_out.bias)

    def forward(self, x: Tensor) -> Float[Tensor, "n p"]:
        """Outputs of tokens (n, length), int64, or of their embeddings (n, length, d_model)."""
        length, d_model = self.positions.shape
        wanted = (length, d_model) if x.is_floating_point() else (length,)
        if tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"x must hold tokens (n, {length}) or embeddings (n, {length}, {d_model}): got "
                f"shape {tuple(x.shape)}, {x.dtype}"
            )
        if x.is_floating_point():
            last, mixed = self._attention_of_embeddings(x)
        elif len(x) < self.embed.num_embeddings:  # the table would have more rows than the batch
            last, mixed = self._attention_of_embeddings(self.embed(x))
        else:
            last, mixed = self._attention_of_tokens(x)
        after = last + self.attention_out(mixed)
        return self.unembed(after + self.mlp_out(self.activation(self.mlp_in(after))))

    def continuous_inputs(self, x: Tensor) -> Float[Tensor, "n length d_model"]:
        """The embeddings of tokens, which input derivatives are taken by; embeddings as they are.

        See ``grokscope.measures.view.continuous``.
        """
        return x if x.is_floating_point() else self.embed(x)

    def residue_weights(self) -> dict[str, Float[Tensor, "p width"]]:
        """The weights with a row for each residue, in which a network may hold few frequencies.

        ``embedding``; ``unembedding``; and ``neuron_logit``, what a neuron of the MLP adds to each
        output on the direct path, W_U W_out (Nanda et al. 2023, section 4).
        """
        return {
            "embedding": self.embed.weight[: self.modulus].detach(),
            "unembedding": self.unembed.weight.detach(),
            "neuron_logit": (self.unembed.weight @ self.mlp_out.weight).detach(),
        }

    def _attention_of_embeddings(
        self, e: Float[Tensor, "n length d"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """The residual stream at the last position and the heads' mixed values there."""
        rows = e + self.positions
        last = rows[:, -1]
        query = self._heads(self.query(last))
        key, value = self._heads(self.key(rows)), self._heads(self.value(rows))
        scores = torch.einsum("nhc,nlhc->nlh", query, key)
        return last, self._mixed(scores, value)

    def _attention_of_tokens(
        self, x: Int64[Tensor, "n length"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """The same, from a table of all tokens at all positions."""
        columns = x.unbind(1)
        table = self.embed.weight + self.positions.unsqueeze(1)  # (length, tokens, d)
        num_tokens = table.shape[1]
        query = self._heads(self.query(table[-1]))
        key, value = self._heads(self.key(table)), self._heads(self.value(table))
        # Score of the last token s with token t at position l: row s * num_tokens + t of table l.
        scores = torch.einsum("shc,lthc->lsth", query, key).flatten(1, 2)
        pairs = [columns[-1] * num_tokens + column for column in columns]
        # index_select, whose gradient is a sum over rows, and which refuses a token out of range.
        chosen = [s.index_select(0, pair) for s, pair in zip(scores, pairs, strict=True)]
        values = [v.index_select(0, column) for v, column in zip(value, columns, strict=True)]
        mixed = self._mixed(torch.stack(chosen, 1), torch.stack(values, 1))
        return table[-1].index_select(0, columns[-1]), mixed

    def _heads(self, rows: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows heads c"]:
        return rows.unflatten(-1, (self.num_heads, -1))

    def _mixed(
        self, scores: Float[Tensor, "n length heads"], value: Float[Tensor, "n length heads c"]
    ) -> Float[Tensor, "n d"]:
        attention = (scores / value.shape[-1] ** 0.5).softmax(1)
        return (attention.unsqueeze(3) * value).sum(1).flatten(1)


def residue_weights(model: Model) -> dict[str, Float[Tensor, "p width"]]:
    """The weights over residues of a model that has them, shown by a view or not.

    Raises:
        ValueError: if the model has no method ``residue_weights``.
    """
    weights = getattr(unwrapped(model), "residue_weights", None)
    if weights is None:
        raise ValueError(
            "Fourier spectra need a model with residue_weights(), as gs.Transformer has it: got "
            f"{type(model).__name__}"
        )
    return weights()
