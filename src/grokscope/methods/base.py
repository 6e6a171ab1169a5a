"""What a training method may do to a step: one class for one network and for many at once.

Every method is written over a leading axis of S networks. In grokscope's loop S is the number of
seeds trained together; in a loop of one's own it is 1, and the method's ``__call__`` hides it.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from grokscope.methods.attachment import Attachment
from grokscope.methods.networks import Networks, rows_of
from grokscope.shown import called_with, settings_of, shown

M = TypeVar("M", bound="Method")


@runtime_checkable
class Loss(Protocol):
    """What the networks minimize."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the networks of each one's loss, a scalar, of outputs (S, n, ...)."""

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of each network's outputs that are correct, (S,)."""


@shown()
class Method:
    """A method that changes training; the base class changes nothing.

    A training loop calls, in this order: ``start`` once; then at each step ``perturb`` before
    the forward pass, ``penalty`` after it, and ``filter_gradients`` between ``backward`` and the
    optimizer's step; ``finish`` once, also after an error. Steps count from 1. A method of
    strength 0 leaves every number as it would have been without it, bit for bit.

    Tensors have a leading axis of S networks, and what a method does to a network must not depend
    on the others: it is what the method would do to that network alone, from the same state.
    What a method remembers stands in ``state``: tensors (S, ...) and numbers that all networks
    share. Each network draws from a generator of its own in ``generators``. The base class then
    saves, restores and thins out both.

    In a loop of one's own, ``attach`` makes a method act at every step of an optimizer: of the
    functions above it then calls ``penalty``, without outputs, and ``filter_gradients``.

    Attributes:
        name: by which a spec names it.
        stays_in_span: whether its updates of the first layer are combinations of the layer's rows
            and the data (see ``grokscope.data.reduce_to_span``).
        always_kept: the names that every state of it holds, where they are always the same.
        generators: one for each network; empty where nothing is drawn.
        state: what a resumed run needs, by name.

    Example:
        >>> import grokscope as gs
        >>> from grokscope.methods import Method
        >>> class Clip(Method):
        ...     def __init__(self, length):
        ...         self.length = length
        ...     def filter_gradients(self, step, networks):
        ...         for name, parameter, gradient in networks.gradients():
        ...             norms = gradient.reshape(len(gradient), -1).norm(dim=1)
        ...             factors = (self.length / norms).clamp_max(1)
        ...             gradient *= factors.view(-1, *[1] * (gradient.ndim - 1))
        >>> data = gs.load_data("digits", train_size=300)
        >>> gs.fit(gs.MLP(64, [8], 10), data, methods=[Clip(0.1)], max_steps=5).steps
        5
    """

    name: ClassVar[str] = "method"
    stays_in_span: ClassVar[bool] = False
    always_kept: ClassVar[tuple[str, ...]] = ()
    generators: list[torch.Generator]
    state: dict[str, Any]
    _attachment: Attachment | None

    def __new__(cls, *_arguments: Any, **_settings: Any) -> Method:
        """Give each method a state of its own, also where a subclass calls no ``__init__``."""
        method = super().__new__(cls)
        method.generators, method.state = [], {}
        method._attachment = None
        return method

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: it is attached to nothing."""
        return {**vars(self), "_attachment": None}

    def __repr__(self) -> str:
        return called_with(self)

    def _shown(self) -> dict[str, Any]:
        return settings_of(self)

    def attach(self: M, model: nn.Module, optimizer: Any) -> M:
        """Act at every step of the optimizer from now on, with no change to the loop.

        Right before the optimizer steps, what the method adds to the loss has its gradient added,
        taken on the inputs that the model was trained on since the last step, whatever was
        accumulated in between; then the method filters the gradients. It acts on the parameters
        that the optimizer moves: where a model has several, attach a method to each. Steps are
        those of the optimizer: one that a ``GradScaler`` leaves out does nothing. Under
        DistributedDataParallel a penalty's gradients are averaged over the processes. Clipping done
        before the step does not see the method; of several methods, the one attached first acts
        first. The model is called with one batch: ``model(x)``, ``model(*x)`` or ``model(**x)``.

        Args:
            model: what is trained, as it is called in the loop, or a ``gs.View`` of it that says
                what its outputs are.
            optimizer: its optimizer, or what holds it, as Accelerate's does.

        Returns:
            The method itself; ``detach`` takes it off again.

        Raises:
            TypeError: if ``model`` is no module or there is no optimizer in ``optimizer``.
            ValueError: if the method is attached already, or changes the inputs, or the optimizer
                moves no parameter of the model.
        """
        if self._attachment is not None:
            raise ValueError("the method is attached already: detach() it first")
        self._attachment = Attachment(model, optimizer, self)
        return self

    def detach(self) -> None:
        """Undo ``attach``."""
        if self._attachment is not None:
            self._attachment.detach()
        self._attachment = None

    def adds_penalty(self) -> bool:
        """Whether the method adds to the loss, at some steps at least."""
        return type(self).penalty is not Method.penalty

    def sees_forward_pass(self) -> bool:
        """Whether the method is at work before the gradients are there."""
        kind = type(self)
        return kind.perturb is not Method.perturb or kind.penalty is not Method.penalty

    def changes_inputs(self) -> bool:
        """Whether the network may be trained on other inputs than the data's."""
        return type(self).perturb is not Method.perturb

    def start(self, networks: Networks) -> None:
        """Prepare for training these networks."""

    def perturb(self, step: int, networks: Networks, x: Any, y: Tensor, loss: Loss) -> Any:
        """The inputs to train on at this step, as ``x``: (S, n, *d), or several such tensors."""
        return x

    def penalty(self, step: int, networks: Networks, x: Any, outputs: Tensor) -> Tensor | None:
        """What to add to the loss of each network (S,) at this step, or None for nothing."""
        return None

    def filter_gradients(self, step: int, networks: Networks) -> None:
        """Change the gradients that ``networks.gradients()`` gives in place."""

    def finish(self) -> None:
        """Undo what ``start`` attached to the networks."""

    def capturable(self) -> bool:
        """Whether a step with this method can be recorded once and replayed, as a CUDA graph is.

        In a replay no Python runs. So the hooks may not look at values of tensors, must change
        ``state`` in place, and take what Python computes (random numbers, whatever depends on
        the step) from ``networks.from_host``. Each class says so for itself: a subclass may
        do anything.
        """
        return False

    def variant(self, step: int) -> Hashable:
        """What the operations of this step depend on; one recording serves steps of one variant."""
        return None

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        if self.generators:
            self.generators = [self.generators[row] for row in rows]
        self.state = {
            key: rows_of(value, rows) if isinstance(value, Tensor) else value
            for key, value in self.state.items()
        }

    def state_dict(self, row: int = 0) -> dict[str, Any]:
        """What a resumed run of one network needs: tensors, numbers and strings, not nested.

        The tensors are copies: a state that is kept does not go on changing.
        """
        own = {"generator": self.generators[row].get_state()} if self.generators else {}
        return own | {
            key: value[row].clone() if isinstance(value, Tensor) else value
            for key, value in self.state.items()
        }

    def load_state_dict(self, *states: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, one dictionary for each network.

        Raises:
            ValueError: if it lacks what the method always keeps.
        """
        for name in self.always_kept:
            if any(name not in own for own in states):
                held = ", ".join(map(repr, states[0])) or "nothing"
                raise ValueError(
                    f"state_dict has no {name!r}, which {type(self).__name__} keeps, but {held}: "
                    "pass what state_dict() of such a method returned"
                )
        if "generator" in states[0]:
            if len(self.generators) != len(states):
                self.generators = [torch.Generator() for _ in states]
            for generator, own in zip(self.generators, states, strict=True):
                generator.set_state(own["generator"].cpu())
        self.state = {
            key: torch.stack([own[key] for own in states]) if isinstance(value, Tensor) else value
            for key, value in states[0].items()
            if key != "generator"
        }


def check_methods(methods: Sequence[Any]) -> None:
    """Raise unless these are methods, and not their classes.

    Raises:
        TypeError: if one is something else.
    """
    for place, method in enumerate(methods):
        if isinstance(method, type):
            raise TypeError(
                f"methods[{place}] must be a method: got the class {method.__name__}; pass "
                f"{method.__name__}()"
            )
        if not isinstance(method, Method):
            raise TypeError(
                f"methods[{place}] must be a grokscope.methods.Method: got {type(method).__name__}"
            )


def joined(methods: Sequence[Method]) -> Method:
    """The methods of several networks, of the same settings, as one; one alone is itself."""
    first = methods[0]
    if len(methods) == 1:
        return first
    whole = copy.copy(first)
    # generators of its own: a method that serves several networks draws the same for each
    whole.generators = [
        torch.Generator(generator.device) for own in methods for generator in own.generators
    ]
    whole.load_state_dict(*(own.state_dict() for own in methods))
    return whole


def difference(methods: Sequence[Sequence[Method]]) -> str | None:
    """In what the methods of several networks differ, so that they cannot be one, or None."""
    kinds = [[type(method) for method in own] for own in methods]
    if any(kind != kinds[0] for kind in kinds):
        return "the networks have different methods"
    for same in zip(*methods, strict=True):
        settings = [settings_of(method) for method in same]
        for name, value in settings[0].items():
            if any(own.get(name) != value for own in settings):
                return f"{name} of {type(same[0]).__name__} differs between the networks"
    return None
