"""The networks as a method sees them: every tensor with a leading axis of S networks.

Two bodies give that face. ``OneNetwork`` is any model, S = 1: its parameters and gradients are
seen through views of shape (1, ...), and nothing is copied.
``grokscope.training.stacked_networks`` trains several networks of one architecture as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from grokscope.measures.batches import Batch, map_leaves
from grokscope.measures.chain import Chain, Fold, chain_of
from grokscope.measures.guard import without_wrappers
from grokscope.measures.modes import evaluating
from grokscope.measures.view import Model, View, continuous, outputs_of, unwrapped
from grokscope.methods.chain_terms import ChainPass
from grokscope.methods.forward_capture import ForwardCapture
from grokscope.methods.layer_chain import LayerPass, layers_of

FromHost = Callable[[int], Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]

# what torch.compile, FSDP and activation checkpointing put into the names of what they wrap
_WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class Networks:
    """S networks of one architecture.

    Attributes:
        models: the networks in the order of the leading axis.
        model: the first of them, which says how all take a batch.
        watching: whether the next forward passes note what activations did, for a penalty.
        feed: where ``from_host`` gets its tensors while a step is recorded.
        is_stacked: whether the parameters that an optimizer moves are (S, ...); else S is 1 and
            they are the model's own.
        are_whole: whether it is known that no parameter is distributed over processes.
    """

    is_stacked: bool = False
    are_whole: bool = False

    model: Model
    models: list[nn.Module]
    watching: bool = False
    feed: Callable[[int, FromHost], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.models)

    def __call__(self, x: Batch) -> Float[Tensor, "s n *k"]:
        """The outputs of every network on inputs of its own, tensors (S, n, ...)."""
        raise NotImplementedError

    def outputs_and_loss(
        self, x: Batch, y: Tensor, loss: LossFunction, loss_of_one: LossFunction
    ) -> tuple[Float[Tensor, "s n *k"], Float[Tensor, ""]]:
        """The outputs and the sum of the networks' losses, by ``loss`` or for one by its own."""
        outputs = self(x)
        return outputs, loss(outputs, y)

    @property
    def function(self) -> Model:
        """The same as a function of one batch (S n, *d), the first network's inputs first.

        It leaves buffers as they are.
        """
        raise NotImplementedError

    def continuous(self, x: Batch) -> Batch:
        """One batch of the inputs of all networks, where they can be differentiated by."""
        return x

    def chain(self, x: Shaped[Tensor, "s n *d"]) -> ChainPass | None:
        """The networks as chains of linear layers at ``x``; None where they are none."""
        raise NotImplementedError

    def layers(self, x: Shaped[Tensor, "s n *d"]) -> LayerPass | None:
        """The one network as a chain of layers at ``x``; None where it is none, or not alone."""
        return None

    def differentiable_pass(self, x: Shaped[Tensor, "s n *d"]) -> tuple[Tensor, Tensor] | None:
        """Inputs and outputs of the training's own forward pass on ``x``, with its graph.

        None where none was kept that can be differentiated by its inputs.
        """
        return None

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, parameter and gradient, both (S, ...), of all that have a gradient."""
        raise NotImplementedError

    def named_gradients(self) -> dict[str, Tensor]:
        """The gradients alone, by name."""
        return {name: gradient for name, _, gradient in self.gradients()}

    def named_shapes(self) -> dict[str, torch.Size]:
        """The names that ``gradients`` gives, with the shape of one network's parameter."""
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
        with evaluating(*self.models):
            yield

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
        # compiled code differentiates only once: what takes derivatives asks the model behind it
        self.model: Model = getattr(model, "_orig_mod", model)
        self._called = model
        self.models = [model] if isinstance(model, nn.Module) else []
        self._capture = ForwardCapture(enabled=False)
        self._parameters: list[tuple[str, nn.Parameter]] | None = None

    def __len__(self) -> int:
        return 1

    def __call__(self, x: Batch) -> Float[Tensor, "1 n *k"]:
        """The outputs of the model."""
        return self.run(_without_axis(x)).unsqueeze(0)

    def run(self, x: Batch) -> Float[Tensor, " n *k"]:
        """The same without the leading axis of one."""
        return outputs_of(self._called, x)

    def outputs_and_loss(
        self, x: Batch, y: Tensor, loss: LossFunction, loss_of_one: LossFunction
    ) -> tuple[Float[Tensor, "1 n *k"], Float[Tensor, ""]]:
        """The outputs of the model and its loss, whose graph has no leading axis to go through."""
        outputs = self.run(_without_axis(x))
        return outputs.unsqueeze(0), loss_of_one(outputs, y.squeeze(0))

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

    def chain(self, x: Shaped[Tensor, "1 n *d"]) -> ChainPass | None:
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
        return ChainPass(chain.weights, chain.biases, folds, features_first=False)

    def captured(self, x: Shaped[Tensor, " n *d"]) -> tuple[Chain, list[Fold]] | None:
        """Chain and folds of the forward pass that was kept, if it was of this very batch."""
        return self._capture.chain(self._called, x)

    def layers(self, x: Shaped[Tensor, "1 n *d"]) -> LayerPass | None:
        """The forward pass of a chain of layers: the one that was kept, or one more."""
        flat = x.squeeze(0)
        found = self._capture.layers(self._called, flat)
        if found is not None:
            return found
        model = unwrapped(self.model)
        layers = layers_of(model, flat)
        try:
            return None if layers is None else LayerPass.run(layers, flat)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it does not run on such a batch; the next call says why
            return None

    def differentiable_pass(self, x: Shaped[Tensor, "1 n *d"]) -> tuple[Tensor, Tensor] | None:
        """Inputs that require gradients and outputs (n, k) of the pass that was kept, or None."""
        return self._capture.outputs(self._called, x.squeeze(0))

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, parameter and gradient, as views (1, ...), of all that have a gradient.

        A sparse gradient, as of ``nn.Embedding(sparse=True)``, becomes a dense one first: what a
        method adds to it has no zeros.
        """
        for name, parameter, gradient in self._with_gradients():
            yield name, parameter.detach().unsqueeze(0), gradient.unsqueeze(0)

    def named_gradients(self) -> dict[str, Tensor]:
        """The same without views of the parameters, which cost as much as a small addition."""
        return {name: gradient.unsqueeze(0) for name, _, gradient in self._with_gradients()}

    def _with_gradients(self) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        if self._parameters is None:  # a walk through the modules costs more than a small gradient
            self._parameters = list(own_parameters(self.models[0]))
        for name, parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None:
                if gradient.layout is not torch.strided:
                    gradient = parameter.grad = gradient.to_dense()
                yield name, parameter, gradient

    def restrict(self, moved: Sequence[Tensor]) -> None:
        """Give the gradients of those parameters alone, which one of several optimizers moves."""
        known = {id(own) for own in moved}
        found = own_parameters(self.models[0])
        self._parameters = [(name, own) for name, own in found if id(own) in known]

    def named_shapes(self) -> dict[str, torch.Size]:
        """The names of the model's parameters and their shapes."""
        return {name: own.shape for name, own in own_parameters(self.models[0])}

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
    pinned = device.type == "cuda" and source.type == "cpu"
    drawn = torch.empty((len(generators), *shape), dtype=dtype, device=source, pin_memory=pinned)
    if len(generators) == 1:
        drawn.normal_(std=std, generator=first)
    else:
        for row, generator in zip(drawn.unbind(), generators, strict=True):
            row.normal_(std=std, generator=generator)
    return drawn if device == source else drawn.to(device, non_blocking=pinned)


def own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A model's parameters by the names that they have without wrappers around it or its parts.

    Example:
        >>> wrapped = nn.DataParallel(nn.Sequential(nn.Linear(3, 2, bias=False)))
        >>> [name for name, _ in own_parameters(wrapped)]
        ['0.weight']
    """
    for name, parameter in without_wrappers(model).named_parameters():
        for wrapper in _WRAPPED:
            name = name.replace(wrapper, "")
        yield name, parameter


def _without_axis(x: Batch) -> Batch:
    """A batch of one network's as the model takes it."""
    return map_leaves(lambda leaf: leaf.squeeze(0), x)
