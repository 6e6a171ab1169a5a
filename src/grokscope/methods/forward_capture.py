"""What the forward pass of a training step leaves behind, so that a penalty need not repeat it.

Three things can be left, by the kind of network: of a chain of linear layers what its activations
did; of a chain of layers, convolutions included, what each layer took and returned, and where it
stands in the graph; of any other network the outputs with a graph that goes back to the inputs,
for which the network is given inputs that require gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grokscope.measures.chain import (
    Chain,
    Fold,
    activation_fold,
    activations_of,
    chain_of,
    composed,
    leaves_of,
)
from grokscope.measures.hooks import ObservingHook
from grokscope.measures.view import Model, output_tensor
from grokscope.methods.double_backward import OnLayer, layers_to_rewire
from grokscope.methods.layer_chain import LayerPass, layers_of


@dataclass
class _Recording:
    """One forward pass: what it was of, and the state of what it read."""

    model: nn.Module
    x: Tensor
    watched: list[Tensor]
    versions: list[int]
    chain: Chain | None = None
    steps: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    layers: LayerPass | None = None
    leaf: Tensor | None = None
    outputs: Tensor | None = None

    def folds(self, chain: Chain) -> list[Fold] | None:
        counts = [len(stage.activations) for stage in chain.stages]
        if len(self.steps) != sum(counts):
            return None
        steps = iter(self.steps)
        return [composed([next(steps) for _ in range(count)]) for count in counts]


class ForwardCapture:
    """Watches a model's forward passes with gradients and keeps the last.

    Attributes:
        enabled: False lets forward passes by that no penalty will follow.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._handles: list[RemovableHandle] = []
        self._activations: list[nn.Module] = []
        self._notes_all = False
        self._open: _Recording | None = None
        self._last: _Recording | None = None

    def attach(self, model: nn.Module) -> None:
        """Watch ``model``."""
        self.detach()
        self._activations = activations_of(model) or []
        handles = [model.register_forward_pre_hook(_OnInput(self))]
        handles += [layer.register_forward_hook(_OnLayer(self)) for layer in self._activations]
        cheap = OnLayer(self.is_differentiable)
        handles += [layer.register_forward_hook(cheap) for layer in layers_to_rewire(model)]
        self._handles = [*handles, model.register_forward_hook(_OnOutput(self))]

    def detach(self) -> None:
        """Take the hooks off again and drop what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._activations, self._notes_all = [], [], False
        self._open = self._last = None

    def chain(self, model: Model, x: Tensor) -> tuple[Chain, list[Fold]] | None:
        """The chain of linear layers and its folds, if the pass kept was of that on ``x``."""
        last = self._matching(model, x)
        if last is None or last.chain is None:
            return None
        folds = last.folds(last.chain)
        return None if folds is None else (last.chain, folds)

    def layers(self, model: Model, x: Tensor) -> LayerPass | None:
        """The chain of layers, if the pass kept was of that on ``x``; it is given once."""
        last = self._matching(model, x)
        if last is None or last.layers is None or not last.layers.is_complete:
            return None
        self._last = None
        return last.layers

    def outputs(
        self, model: Model, x: Tensor
    ) -> tuple[Float[Tensor, " n *d"], Float[Tensor, "n k"]] | None:
        """Inputs and outputs of the pass kept, if it was on ``x``; they are given once."""
        last = self._matching(model, x)
        if last is None or last.leaf is None or last.outputs is None:
            return None
        self._last = None
        return last.leaf, last.outputs

    def is_differentiable(self) -> bool:
        """Whether a pass is being recorded that is to be differentiated twice."""
        return self._open is not None and self._open.leaf is not None

    def _matching(self, model: Model, x: Tensor) -> _Recording | None:
        """The pass kept, if it was of ``model``, unchanged since, on ``x``."""
        last = self._last
        if last is None or last.model is not model or not _is_same(last.x, x):
            return None
        return last if last.versions == _versions(last.watched) else None

    def on_input(self, model: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        """Start to record a forward pass with gradients; inputs to go on with, or None."""
        self._open = None
        if not self.enabled or not torch.is_grad_enabled():
            return None
        self._last = None
        if len(args) != 1 or not isinstance(args[0], Tensor) or args[0].is_inference():
            return None
        x = args[0]
        chain = chain_of(model, x)
        own = model.parameters() if chain is None else [*chain.weights, *chain.biases]
        watched = [x, *(tensor for tensor in own if tensor is not None)]
        recording = _Recording(model, x, watched, _versions(watched), chain)
        if chain is None:
            layers = None if torch.is_autocast_enabled(x.device.type) else layers_of(model, x)
            if layers is not None:
                recording.layers = LayerPass(layers, x)
                self._note_all_layers(model)
            # of inputs that require gradients themselves the pass is not kept: what the loss sends
            # back to them and what the penalty would are one graph
            elif x.is_floating_point() and not x.requires_grad:
                recording.leaf = x.detach().requires_grad_()
        self._open = self._last = recording
        # a copy: a model whose first step is in place may not touch a leaf
        return None if recording.leaf is None else (recording.leaf.clone(),)

    def _note_all_layers(self, model: nn.Module) -> None:
        """Watch the other layers too, of which a chain of linear layers has no use."""
        if not self._notes_all:
            others = [
                leaf
                for leaf in dict.fromkeys(leaves_of(model) or [])
                if leaf not in self._activations
            ]
            self._handles += [
                layer.register_forward_hook(_OnLayer(self), prepend=True) for layer in others
            ]
            self._notes_all = True

    def on_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what one layer did."""
        if self._open is None or not isinstance(output, Tensor):
            return
        if self._open.chain is not None and layer in self._activations:
            self._open.steps.append(activation_fold(layer, output.detach()))
        elif self._open.layers is not None:
            self._open.layers.note(args[0], output)

    def on_output(self, output: Any) -> None:
        """Close the recording."""
        if self._open is not None and self._open.leaf is not None:
            try:
                found = output_tensor(output)
            except TypeError:  # the penalty says what is wrong with it
                found = None
            if found is not None and found.requires_grad and found.ndim in (1, 2):
                self._open.outputs = found.unsqueeze(1) if found.ndim == 1 else found
        self._open = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or saved model carries an idle capture, not this one's tensors."""
        return ForwardCapture, (False,)


@dataclass(frozen=True)
class _OnInput(ObservingHook):
    capture: ForwardCapture

    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        return self.capture.on_input(model, args)


@dataclass(frozen=True)
class _OnLayer(ObservingHook):
    capture: ForwardCapture

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.capture.on_layer(layer, args, output)


@dataclass(frozen=True)
class _OnOutput(ObservingHook):
    capture: ForwardCapture

    def __call__(self, _model: nn.Module, _args: Any, output: Any) -> None:
        self.capture.on_output(output)


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory, as a view and its base are.

    The recording holds on to its own, so the memory cannot have been given to another tensor.
    """
    return one is other or (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
        and one.device == other.device
    )


def _versions(tensors: list[Tensor]) -> list[int]:
    """Counters that PyTorch raises with every change in place; a view shares its base's."""
    return [tensor._version for tensor in tensors]
