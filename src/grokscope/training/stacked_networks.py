"""Several networks of one architecture as one: parameters with a leading axis of S networks.

A stack of L-layer perceptrons multiplies all its matrices of one depth at once,
H_l = b_l + W_l a(H_{l-1}) with W_l (S, h_l, h_{l-1}) and H_l (S, h_l, n): features come before
examples, because then the gradients of W_l come out in the layout of W_l. Any other architecture
runs under ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap

from grokscope.measures.batches import Batch, map_leaves
from grokscope.measures.chain import Fold, activation_fold, chain_of, composed, leaves_of
from grokscope.measures.modes import evaluating
from grokscope.measures.scale import Scale
from grokscope.measures.view import Model, View, holds_tokens, output_tensor
from grokscope.methods.chain_terms import ChainPass
from grokscope.methods.networks import Networks, rows_of

_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    Scale,
)


class _Affine(NamedTuple):
    """A linear layer of every network: weights (S, h, d) and biases (S, h)."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.bias is None:
            return torch.bmm(self.weight, hidden)
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, hidden)


class StackedNetworks(Networks):
    """S networks that run, and are trained, as one.

    The stack holds copies; after ``bind`` the networks' own parameters are views of it, so that
    each of them is seen as it is now.

    Args:
        models: networks of the same architecture, on one device and in one dtype.

    Attributes:
        models: the networks in the order of the leading axis.
        parameters: their parameters by name, each (S, ...).
        buffers: their buffers by name, each (S, ...); a stack does not change them.
    """

    is_stacked = True

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = list(models)
        self.model = self._template = models[0]
        named = [dict(model.named_parameters()) for model in models]
        self.parameters = {
            name: nn.Parameter(
                torch.stack([own[name].detach() for own in named]), parameter.requires_grad
            )
            for name, parameter in named[0].items()
        }
        held = [dict(model.named_buffers()) for model in models]
        self.buffers = {name: torch.stack([own[name] for own in held]) for name in held[0]}
        stacked = {id(named[0][name]): whole for name, whole in self.parameters.items()}
        self._layers = _layers(self._template, stacked)
        self._chain = _chain_layers(self._template, stacked) if self._layers else None
        self._inputs: Tensor | None = None
        self._outputs_of_activations: list[Tensor] = []

    @property
    def is_layered(self) -> bool:
        """Whether the networks are perceptrons, whose matrices are multiplied without ``vmap``."""
        return self._layers is not None

    def __call__(self, x: Batch) -> Float[Tensor, "s n *k"]:
        """The outputs of every network on inputs of its own, tensors (S, n, ...)."""
        layers = self._layers
        if layers is None or not isinstance(x, Tensor) or (x.ndim != 3 and not layers.flattens):
            return self._mapped(x)
        # (S, features, n) throughout: W h is then one batched product for a layer, and the
        # transposes at both ends are views.
        hidden = x.flatten(2).mT
        self._inputs, self._outputs_of_activations = x, []
        for layer in layers.steps:
            hidden = layer(hidden)
            # an activation's slope is read off its output: a penalty needs no second forward pass
            if not isinstance(layer, _Affine):
                self._outputs_of_activations.append(hidden)
        return hidden.flatten(1) if layers.squeezes else hidden.mT

    @property
    def function(self) -> Model:
        """The same as a function of one batch (S n, *d), the first network's inputs first."""
        return self._of_all

    def _of_all(self, *args: Any, **entries: Any) -> Float[Tensor, " m *k"]:
        x: Batch = entries or (args[0] if len(args) == 1 else args)
        return self(map_leaves(self._by_network, x)).flatten(0, 1)

    def _by_network(self, leaf: Tensor) -> Tensor:
        return leaf.unflatten(0, (len(self), -1))

    def continuous(self, x: Batch) -> Batch:
        """The batch, or its embeddings by each network's own weights where it holds tokens."""
        if not holds_tokens(self._template, x):
            return x
        template = _Embedding(self._template)

        def embedded(parameters: dict[str, Any], x: Batch) -> Batch:
            found: Batch = functional_call(template, parameters, (x,))
            return found

        named = {f"model.{name}": whole for name, whole in self.parameters.items()}
        whole = vmap(embedded)(named, map_leaves(self._by_network, x))
        return map_leaves(lambda leaf: leaf.flatten(0, 1), whole)

    def chain(self, x: Shaped[Tensor, "s n *d"]) -> ChainPass | None:
        """The chains with the folds of the last forward pass, or of one more; None for others."""
        if self._chain is None or self._layers is None:
            return None
        if x.ndim != 3 and not self._layers.flattens:
            return None
        # identity, not equality: the pass that was noted must be of this very batch
        if self._inputs is not x:
            with torch.no_grad():
                self(x)
        outputs = iter(self._outputs_of_activations)
        folds = [
            composed(
                [activation_fold(activation, next(outputs).detach()) for activation in activations]
            )
            for _, activations in self._chain
        ]
        affine = [layer for layer, _ in self._chain]
        return ChainPass(
            [layer.weight for layer in affine],
            [None if layer.bias is None else layer.bias.unsqueeze(1) for layer in affine],
            [Fold(*(part if part is None else part.mT for part in fold)) for fold in folds],
            features_first=True,
        )

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, parameter and gradient, all (S, ...), of all that have a gradient."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                yield name, parameter.detach(), parameter.grad

    def named_shapes(self) -> dict[str, torch.Size]:
        """The names of the networks' parameters and their shapes."""
        return {name: whole.shape[1:] for name, whole in self.parameters.items()}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run in eval mode inside: it is the first network whose modules run for all."""
        with evaluating(self._template):
            yield

    @property
    def trained(self) -> list[nn.Parameter]:
        """The stacked parameters that an optimizer moves."""
        return [own for own in self.parameters.values() if own.requires_grad]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only; the others take their numbers with them.

        With none the stack is spent.
        """
        for row, model in enumerate(self.models):
            # a copy of its own, or a network that is done would be trained on with the rest
            if row not in rows:
                for parameter in model.parameters():
                    parameter.data = parameter.data.clone()
        self.models = [self.models[row] for row in rows]
        self._inputs, self._outputs_of_activations = None, []
        for parameter in self.parameters.values():
            parameter.data = rows_of(parameter.data, rows)
            parameter.grad = None
        self.buffers = {name: rows_of(buffer, rows) for name, buffer in self.buffers.items()}
        self.bind()

    def bind(self) -> None:
        """Make the networks' parameters views of the stack's."""
        for row, model in enumerate(self.models):
            for name, parameter in model.named_parameters():
                # views: what the optimizer does to the stack the user's models show at once
                parameter.data = self.parameters[name].data[row]

    def _mapped(self, x: Batch) -> Tensor:
        def outputs(parameters: dict[str, Any], buffers: dict[str, Any], x: Batch) -> Tensor:
            return functional_outputs(self._template, (parameters, buffers), x)

        with _layers_one_by_one():
            return vmap(outputs)(dict(self.parameters), self.buffers, x)


@contextmanager
def _layers_one_by_one() -> Iterator[None]:
    """Keep transformer layers in eval mode from a fused pass, which has no gradient in a stack."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def functional_outputs(
    model: nn.Module, tensors: dict[str, Tensor] | tuple[dict[str, Tensor], ...], x: Batch
) -> Tensor:
    """The outputs of a model on a batch with these tensors in place of its own."""
    if isinstance(x, Tensor) or isinstance(model, View):
        return output_tensor(functional_call(model, tensors, (x,)))
    args, entries = ((), dict(x)) if isinstance(x, Mapping) else (tuple(x), {})
    return output_tensor(functional_call(model, tensors, args, entries))


class _Embedding(nn.Module):
    """The embeddings of tokens as a forward pass, for ``functional_call``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Batch) -> Batch:
        return self.model.continuous_inputs(x)  # type: ignore[operator]


class _Layers(NamedTuple):
    steps: list[_Affine | nn.Module]
    flattens: bool
    squeezes: bool


def _layers(model: nn.Module, stacked: dict[int, nn.Parameter]) -> _Layers | None:
    """The layers of a perceptron over stacked parameters, or None if ``model`` is none."""
    leaves = leaves_of(model)
    if not leaves:
        return None
    flattens = _is_flatten(leaves[0], 1)
    squeezes = _is_flatten(leaves[-1], 0) and _width(leaves) == 1
    steps: list[_Affine | nn.Module] = []
    for leaf in leaves[int(flattens) : len(leaves) - int(squeezes)]:
        if type(leaf) is nn.Linear and _is_stacked(leaf, stacked):
            steps.append(_affine(leaf, stacked))
        elif type(leaf) in _ELEMENTWISE:
            if getattr(leaf, "inplace", False) and not (steps and _is_affine(steps[-1])):
                return None  # it would change what is looked at later
            steps.append(leaf)
        elif type(leaf) is not nn.Identity:
            return None
    return _Layers(steps, flattens, squeezes) if any(map(_is_affine, steps)) else None


def _chain_layers(
    model: nn.Module, stacked: dict[int, nn.Parameter]
) -> list[tuple[_Affine, tuple[nn.Module, ...]]] | None:
    """Each linear layer with the activations after it, where the networks are chains."""
    first = next(module for module in model.modules() if type(module) is nn.Linear)
    chain = chain_of(model, first.weight.new_zeros(1, first.in_features))
    if chain is None:
        return None
    return [(_affine(stage.linear, stacked), stage.activations) for stage in chain.stages]


def _affine(linear: nn.Linear, stacked: dict[int, nn.Parameter]) -> _Affine:
    bias = None if linear.bias is None else stacked[id(linear.bias)]
    return _Affine(stacked[id(linear.weight)], bias)


def _is_stacked(linear: nn.Linear, stacked: dict[int, nn.Parameter]) -> bool:
    return all(id(own) in stacked for own in (linear.weight, linear.bias) if own is not None)


def _is_affine(step: _Affine | nn.Module) -> bool:
    return isinstance(step, _Affine)


def _is_flatten(leaf: nn.Module, start: int) -> bool:
    return type(leaf) is nn.Flatten and leaf.start_dim == start and leaf.end_dim == -1


def _width(leaves: list[nn.Module]) -> int | None:
    """Outputs of the last linear layer."""
    widths = [leaf.out_features for leaf in leaves if type(leaf) is nn.Linear]
    return widths[-1] if widths else None
