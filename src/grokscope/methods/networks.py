"""The networks as a method sees them: every tensor with a leading axis of S networks.

Two bodies give that face. ``OneNetwork`` is any model, S = 1: its parameters and gradients are
seen through views of shape (1, ...), and nothing is copied.
``grokscope.training.stacked_networks`` trains several networks of one architecture as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
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
from grokscope.measures.view import Model, View, continuous, unwrapped
from grokscope.methods.chain_terms import ChainPass

FromHost = Callable[[int], Tensor]


class Networks:
    """S networks of one architecture.

    Attributes:
        models: the networks in the order of the leading axis.
        model: the first of them, which says how all take a batch.
        watching: whether the next forward passes note what activations did, for a penalty.
        feed: where ``from_host`` gets its tensors while a step is recorded.
        is_stacked: whether the parameters that an optimizer moves are (S, ...); else S is 1 and
            they are the model's own.
    """

    is_stacked: bool = False

    model: Model
    models: list[nn.Module]
    watching: bool = False
    feed: Callable[[int, FromHost], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.models)

    def __call__(self, x: Float[Tensor, "s n *d"]) -> Float[Tensor, "s n *k"]:
        """The outputs of every network on inputs of its own."""
        raise NotImplementedError

    @property
    def function(self) -> Model:
        """The same as a function of one batch (S n, *d), the first network's inputs first.

        It leaves buffers as they are.
        """
        raise NotImplementedError

    def continuous(self, x: Batch) -> Batch:
        """One batch of the inputs of all networks, where they can be differentiated by."""
        return x

    def chain(self, x: Float[Tensor, "s n *d"]) -> ChainPass | None:
        """The networks as chains of linear layers at ``x``; None where they are none."""
        raise NotImplementedError

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, parameter and gradient, both (S, ...), of all that have a gradient."""
        raise NotImplementedError

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that an optimizer moves."""
        raise NotImplementedError

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        raise NotImplementedError

    def watch(self) -> None:
        """Be ready to note what activations do in a forward pass, where that saves a second."""

    def unwatch(self) -> None:
        """Forget it again."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run in eval mode inside, in the modes of before afterwards."""
        modes = {module: module.training for model in self.models for module in model.modules()}
        for model in self.models:
            model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def from_host(self, step: int, make: FromHost) -> Tensor:
        """``make(step)``, a tensor that Python computes anew at every step.

        Random numbers and numbers that depend on the step come from here: where the rest of the
        step is a recording that is replayed, ``make`` is still called, and fills the recording's
        tensor.
        """
        return make(step) if self.feed is None else self.feed(step, make)


class OneNetwork(Networks):
    """One model of any architecture, S = 1.

    Args:
        model: an ``nn.Module``, or for the penalty alone a function of a batch.
    """

    def __init__(self, model: Model) -> None:
        self.model = _uncompiled(model)
        self._called = model
        self.models = [model] if isinstance(model, nn.Module) else []
        self._capture = ForwardCapture(enabled=False)

    def __len__(self) -> int:
        return 1

    def __call__(self, x: Float[Tensor, "1 n *d"]) -> Float[Tensor, "1 n *k"]:
        """The outputs of the model."""
        return self._called(x.squeeze(0)).unsqueeze(0)

    def is_of(self, model: Model) -> bool:
        """Whether this is that model."""
        return self._called is model

    @property
    def watching(self) -> bool:
        """Whether the next forward passes with gradients are kept."""
        return self._capture.enabled

    @watching.setter
    def watching(self, on: bool) -> None:
        self._capture.enabled = on

    @property
    def function(self) -> Model:
        """The model on copies of its buffers, so that running statistics see each batch once."""
        model = self.model
        if not isinstance(model, nn.Module) or not any(m.training for m in model.modules()):
            return model
        copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
        if not copies:
            return model

        def undisturbed(*args: Any, **entries: Any) -> Any:
            return functional_call(model, copies, args, entries)

        # a view takes its batch whole, whatever its kind
        return View(undisturbed, lambda f, x: f(x)) if isinstance(model, View) else undisturbed

    def continuous(self, x: Batch) -> Batch:
        """The batch, or its embeddings where it holds tokens and the model makes them."""
        return continuous(self.model, x)

    def chain(self, x: Float[Tensor, "1 n *d"]) -> ChainPass | None:
        """The model's weights and folds: of the forward pass that was kept, or of one more."""
        flat = x.squeeze(0)
        found = self.captured(flat)
        if found is None:
            chain = chain_of(unwrapped(self.model), flat)
            if chain is None:
                return None
            with torch.no_grad():
                found = chain, chain.run(flat).folds
        chain, folds = found
        return ChainPass(
            chain.weights,
            [None if bias is None else bias.view(1, 1, -1) for bias in chain.biases],
            [Fold(*(part if part is None else part.unsqueeze(0) for part in f)) for f in folds],
            features_first=False,
        )

    def captured(self, x: Float[Tensor, " n *d"]) -> tuple[Chain, list[Fold]] | None:
        """Chain and folds of the forward pass that was kept, if it was of this very batch."""
        return self._capture.matching(self._called, x)

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, parameter and gradient, as views (1, ...), of all that have a gradient."""
        for name, parameter in self.models[0].named_parameters():
            if parameter.grad is not None:
                yield name, parameter.detach().unsqueeze(0), parameter.grad.unsqueeze(0)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The model's parameters that are trained."""
        return [own for own in self.models[0].parameters() if own.requires_grad]

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing: the one network stays, or training is over."""

    def watch(self) -> None:
        """Put hooks on the model that note what its activations do."""
        self._capture.attach(self.models[0])

    def unwatch(self) -> None:
        """Take the hooks off again."""
        self._capture.detach()


def rows_of(stacked: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows of the leading axis, in memory of their own."""
    return stacked.index_select(0, torch.tensor(rows, dtype=torch.long, device=stacked.device))


def normal_numbers(
    generators: Sequence[torch.Generator | None],
    shape: Sequence[int],
    device: torch.device,
    dtype: torch.dtype | None = None,
    std: float = 1.0,
) -> Float[Tensor, " s *shape"]:
    """Normal numbers: row i is ``std`` times ``torch.randn(shape, generator=generators[i])``.

    They are drawn where the generators live (None, the global one, on the CPU), so that a seed
    means the same numbers on every device, and go to ``device`` in one piece.
    """
    first = generators[0]
    source = torch.device("cpu") if first is None else first.device
    # pinned, so that the copy to a GPU does not wait for what the GPU still has to do
    pinned = source.type == "cpu" and device.type == "cuda"
    drawn = torch.empty(len(generators), *shape, dtype=dtype, device=source, pin_memory=pinned)
    for row, generator in zip(drawn.unbind(), generators, strict=True):
        row.normal_(std=std, generator=generator)
    return drawn.to(device, non_blocking=pinned)


def _uncompiled(model: Model) -> Model:
    """The model behind ``torch.compile``, whose compiled code differentiates only once."""
    return getattr(model, "_orig_mod", model)


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

    def matching(self, model: Model, x: Tensor) -> tuple[Chain, list[Fold]] | None:
        """The chain and its folds if the pass kept was of ``model``, unchanged since, on ``x``."""
        last = self._last
        if last is None or last.model is not model or not _is_same(last.x, x):
            return None
        folds = last.folds()
        if folds is None or last.versions != _versions(last.chain, x):
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


def _versions(chain: Chain, x: Tensor) -> list[int]:
    """Counters that PyTorch raises with every change in place; a view shares its base's."""
    biases = [bias for bias in chain.biases if bias is not None]
    return [tensor._version for tensor in (x, *chain.weights, *biases)]
