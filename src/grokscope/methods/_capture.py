"""What a chain's activations did in the training forward pass, kept to save a second one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grokscope.measures.batches import Batch
from grokscope.measures.chain import (
    Chain,
    Fold,
    ObservingHook,
    activation_fold,
    activations_of,
    chain_of,
    composed,
)
from grokscope.measures.inputs import Model


@dataclass
class _Recording:
    """One forward pass: what it was of, and what each activation did, in the order they ran."""

    model: nn.Module
    x: Tensor
    chain: Chain
    versions: list[int]
    steps: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def folds(self) -> list[Fold] | None:
        counts = [len(stage.activations) for stage in self.chain.stages]
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
        self._open: _Recording | None = None
        self._last: _Recording | None = None

    def attach(self, model: nn.Module) -> None:
        """Watch ``model`` if it may be a chain, else do nothing."""
        self.detach()
        activations = activations_of(model)
        if activations is not None:
            self._handles = [model.register_forward_pre_hook(_OnInput(self))]
            self._handles += [a.register_forward_hook(_OnActivation(self)) for a in activations]

    def detach(self) -> None:
        """Take the hooks off again and drop what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._open = self._last = None

    def matching(self, model: Model, x: Batch) -> tuple[Chain, list[Fold]] | None:
        """The chain and its folds if the pass kept was of ``model``, unchanged since, on ``x``."""
        last = self._last
        if last is None or last.model is not model or last.x is not x:
            return None
        folds = last.folds()
        if folds is None or last.versions != _versions(last.chain, last.x):
            return None
        return last.chain, folds

    def on_input(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Start to record, where this is a forward pass of a chain with gradients."""
        self._open = None
        if not self.enabled or not torch.is_grad_enabled():
            return
        self._last = None
        if len(args) != 1 or not isinstance(args[0], Tensor) or args[0].is_inference():
            return
        x = args[0]
        chain = chain_of(model, x)
        if chain is not None:
            self._open = self._last = _Recording(model, x, chain, _versions(chain, x))

    def on_activation(self, activation: nn.Module, output: Tensor) -> None:
        """Note what one activation did."""
        if self._open is not None:
            self._open.steps.append(activation_fold(activation, output.detach()))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or saved model carries an idle capture, not this one's tensors."""
        return ForwardCapture, (False,)


@dataclass(frozen=True)
class _OnInput(ObservingHook):
    capture: ForwardCapture

    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.capture.on_input(model, args)


@dataclass(frozen=True)
class _OnActivation(ObservingHook):
    capture: ForwardCapture

    def __call__(self, activation: nn.Module, _args: Any, output: Tensor) -> None:
        self.capture.on_activation(activation, output)


def _versions(chain: Chain, x: Tensor) -> list[int]:
    """Counters that PyTorch raises with every change in place."""
    biases = [bias for bias in chain.biases if bias is not None]
    return [tensor._version for tensor in (x, *chain.weights, *biases)]
