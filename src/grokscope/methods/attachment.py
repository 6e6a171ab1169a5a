"""A method that acts when the optimizer steps, without a change to the training loop.

Right before the optimizer steps the loop's own gradients stand in the parameters' ``.grad``:
accumulated over micro-batches, averaged over processes and, in mixed precision, unscaled. There a
penalty's gradient is added to them, taken on the inputs that the model was trained on since the
step before, and there they are filtered, those of the parameters that this optimizer moves. What
clips gradients before the step does not see it.

The model was trained on a batch if a backward pass went through its outputs of that batch and on to
gradients that are accumulated, in whichever mode the model was: a forward pass that fails, that is
a measure's, whose outputs are only looked at, or that is differentiated by its inputs alone, does
not count. Nor does what ``torch.autograd.grad`` gives, as a norm of gradients on other data, unless
nothing was accumulated: then the loop has put those gradients there itself.

An optimizer that is given a closure, as Lightning's are, computes its gradients within its step:
the method then acts at the end of the closure, and the loss that the closure returns, by which a
line search goes, has the penalty in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.measures.batches import Batch, batch_size, detached, map_leaves
from grokscope.measures.guard import without_wrappers
from grokscope.measures.hooks import ObservingHook, is_outside_training, outside_training
from grokscope.measures.view import View
from grokscope.methods.kept_batches import KeptBatches, version
from grokscope.methods.networks import OneNetwork

if TYPE_CHECKING:
    from grokscope.methods.base import Method

Inputs = Callable[[tuple[Any, ...], dict[str, Any]], Batch]


def innermost_optimizer(optimizer: Any) -> Optimizer:
    """PyTorch's optimizer in what is given: the one whose own step moves the parameters.

    Accelerate and Lightning hold one as ``optimizer``; optimizers that are made of another and
    call its step, as of sharpness-aware minimization, hold it as ``base_optimizer`` mostly.

    Raises:
        TypeError: if there is none.
    """
    inner, found = None, optimizer
    while found is not None:
        held = [getattr(found, name, None) for name in ("optimizer", "base_optimizer")]
        inner, found = found, next((own for own in held if isinstance(own, Optimizer)), None)
    if not isinstance(inner, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer: got {type(optimizer).__name__}"
        )
    return inner


def leaves_out(optimizer: Optimizer) -> bool:
    """Whether the step that an optimizer is called for is one that it leaves out.

    A ``GradScaler`` does not call most optimizers where gradients are not finite; a fused one it
    calls, with what it found.
    """
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.any())


def one_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
    """The batch that a model is called with, as ``model(x)``, ``model(*x)`` or ``model(**x)``.

    Raises:
        ValueError: if it is called with positional and keyword arguments.
    """
    if args and kwargs:
        raise ValueError(
            f"the model is called with positional and keyword arguments ({', '.join(kwargs)}): "
            "call it with one batch, as model(x), model(*x) or model(**x); or attach to a gs.View "
            "that sets the others, as view = gs.View(model, lambda m, x: m(x, flag=True)), and "
            "call that in the loop too, as view(x)"
        )
    return kwargs or (args[0] if len(args) == 1 else args)


@dataclass
class _Call:
    """A call of a watched module that is under way.

    Attributes:
        given: the arguments, if they are the inputs that the model is trained on.
    """

    module: nn.Module
    forward: Any
    given: tuple[tuple[Any, ...], dict[str, Any]] | None


@dataclass(frozen=True)
class _Watch(ObservingHook):
    """A hook of an attachment; a copy of the model, or a saved one, carries one that is idle."""

    note: Callable[..., None]

    def __call__(self, *given: Any) -> None:
        self.note(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watch, (_nothing,)


def _nothing(*_given: Any) -> None:
    """What a hook of a copied model does."""


class Attachment:
    """The hooks by which a method acts at each step of an optimizer.

    Args:
        model: what is trained, wrapped (DistributedDataParallel, torch.compile), seen through a
            ``gs.View`` or plain. Of a view, its model may be what the loop calls.
        optimizer: whose steps count; one that holds PyTorch's, as Accelerate's, serves too.
        method: what acts.
        inputs: the batch among the arguments that the model is called with.
        distributed: whether processes average their gradients; None where the model says so, by
            being wrapped for it.

    Attributes:
        steps: the steps of the optimizer so far, those left out not among them.

    Raises:
        TypeError: if there is no module, or no ``torch.optim.Optimizer`` in what is given.
        ValueError: if the method changes the inputs, or the optimizer moves no part of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        method: Method,
        inputs: Inputs = one_batch,
        distributed: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module: got {type(model).__name__}")
        if method.changes_inputs():
            raise ValueError(
                f"{type(method).__name__} changes the inputs, before the model sees them: call it "
                "in the training loop, an optimizer's step is too late"
            )
        if distributed is None:
            distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        self._optimizer = innermost_optimizer(optimizer)
        self._distributed = distributed
        self._method = method
        self._inputs = inputs
        self._network = OneNetwork(without_wrappers(model))
        own = {id(parameter) for parameter in model.parameters()}
        moved = [each for group in self._optimizer.param_groups for each in group["params"]]
        if own and own.isdisjoint(map(id, moved)):
            raise ValueError(
                f"optimizer moves no parameter of {type(self._network.models[0]).__name__}, to "
                f"which {type(method).__name__} is to be attached: pass the optimizer of "
                "model.parameters(), and the model that is trained, not a copy"
            )
        self._calls: list[_Call] = []  # those under way, the outermost first
        self._traced: list[Batch] = []  # of forward passes whose outputs cannot be followed
        self._reached: list[Batch] = []  # those whose outputs this backward pass went through
        self._asked = KeptBatches()  # those whose gradients were asked for since the last step
        self._batches = KeptBatches()  # those whose gradients have been accumulated
        self._pass = -1  # PyTorch's number of the backward pass that ``_reached`` is of
        self._asking_pass = -1  # and of the last one that came to the parameters
        self._drops = False  # whether what was accumulated before that one is gone
        # the parameter that had its gradient accumulated last, the gradient, and its version then
        self._left: tuple[Tensor, Tensor | None, int] | None = None
        self._stepped = True  # whether nothing was accumulated since the last step
        self.has_seen = False
        self.steps = 0
        self._penalizes = method.adds_penalty()
        self._followed: list[Tensor] = []
        self._on_parameters: list[Any] = []
        self._handles = [self._optimizer.register_step_pre_hook(self._before_step)]
        if self._penalizes:
            self._watch(model)
        self._follow(self._trained())

    def _watch(self, model: nn.Module) -> None:
        """Note what the model is called with, and which of its outputs are trained on."""
        watched = [_as_called(model)]
        while isinstance(watched[-1], View) and isinstance(watched[-1]._view_model, nn.Module):
            watched.append(_as_called(watched[-1]._view_model))
        enter, leave = _Watch(self._enter), _Watch(self._leave)
        for module in watched:
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def _follow(self, trained: list[Tensor]) -> None:
        """See to it that what is trained now is what is known, as after a layer was replaced."""
        known = self._followed
        if len(known) == len(trained) and all(map(operator.is_, known, trained)):
            return
        self._network.restrict(trained)
        for handle in self._on_parameters:
            handle.remove()
        self._followed = trained
        if self._penalizes:
            self._on_parameters = [own.register_hook(self._ask) for own in trained]
            self._on_parameters += [
                own.register_post_accumulate_grad_hook(self._accumulate) for own in trained
            ]

    def detach(self) -> None:
        """Take the hooks off again."""
        for handle in [*self._handles, *self._on_parameters]:
            handle.remove()
        self._handles, self._on_parameters, self._followed, self._left = [], [], [], None
        self._traced, self._reached = [], []
        self._asked, self._batches = KeptBatches(), KeptBatches()

    def _trained(self) -> list[Tensor]:
        """The parameters that the optimizer moves, as they are at the time."""
        groups = self._optimizer.param_groups
        return [own for group in groups for own in group["params"] if own.requires_grad]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for place, call in enumerate(self._calls):
            if call.module is module and call.forward == module.forward:
                del self._calls[place:]  # which were interrupted, and left no word
                break
        outer = self._calls[-1] if self._calls else None
        # Lightning runs its training step as the forward pass of a module wrapped for several
        # processes, and puts the module's own back before it calls it on the inputs.
        inner = outer is not None and outer.module is module and outer.forward != module.forward
        takes_inputs = (outer is None or inner) and not is_outside_training()
        if outer is not None and inner and takes_inputs:
            outer.given = None
        given = (args, kwargs) if takes_inputs and torch.is_grad_enabled() else None
        self._calls.append(_Call(module, module.forward, given))

    def _leave(self, module: nn.Module, _args: Any, outputs: Any) -> None:
        if not self._calls:
            return
        call = self._calls.pop()
        traced = torch.compiler.is_compiling()  # where outputs take no hook
        if call.given is None or (not traced and outputs is None):  # the forward pass has failed
            return
        try:
            batch = detached(self._inputs(*call.given))
        except TypeError as error:
            raise TypeError(
                f"{type(module).__name__}, to which {type(self._method).__name__} is attached, is "
                f"not called with a batch of tensors ({error}): attach to the module within it "
                "that is, or to a gs.View"
            ) from None
        found = [] if traced else list(_tensors_in(outputs))
        if not found:
            self._traced.append(batch)
            return
        self._follow(self._trained())
        for tensor in found:
            if tensor.requires_grad:
                tensor.register_hook(partial(self._reach, batch))

    def _reach(self, batch: Batch, _gradient: Tensor) -> None:
        """A backward pass goes through the outputs of a batch."""
        self._in_this_pass().append(batch)

    def _in_this_pass(self) -> list[Batch]:
        """The batches whose outputs the backward pass that runs went through."""
        current = torch._C._current_graph_task_id()
        if current != self._pass:
            self._reached, self._pass = [], current
        return self._reached

    def _ask(self, _gradient: Tensor | None) -> None:
        """Before a gradient by a parameter is there, to be accumulated or not.

        What was accumulated before is dropped with its gradients: by a step, or by a loop whose
        ``GradScaler`` left the step out.
        """
        found = [*self._traced, *self._in_this_pass()]
        if self._asking_pass != self._pass:
            self._asking_pass = self._pass
            self._drops = bool(found and self._batches) and not self._holds_gradients()
        self._asked.join(found)

    def _accumulate(self, own: Tensor) -> None:
        """A gradient was accumulated: what its backward pass reached belongs to the step."""
        self._left = own, own.grad, version(own.grad)
        if self._stepped or self._drops:
            self._batches, self._stepped, self._drops = KeptBatches(), False, False
        self._batches.join([*self._traced, *self._in_this_pass()])
        self._traced = []

    def _holds_gradients(self) -> bool:
        """Whether gradients of before are there, neither None nor filled with zeros.

        Asked when a second batch is accumulated. They are where nothing was written to the last
        one, which may be zero itself; else it ends at the first gradient that has a number.
        """
        if self._left is not None:
            own, gradient, written = self._left
            if own.grad is not None and own.grad is gradient and version(gradient) == written:
                return True
        gradients = [own.grad for own in self._trained() if own.grad is not None]
        return any(own.layout is not torch.strided or bool(own.any()) for own in gradients)

    def _before_step(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        counted = False

        def act() -> Tensor | float:
            nonlocal counted
            if self._stepped:  # the gradients are those that were asked for, put there by the loop
                self._batches = self._asked
            self._stepped, self._traced, self._asked = True, [], KeptBatches()
            if leaves_out(self._optimizer) or all(own.grad is None for own in self._trained()):
                return 0.0
            if not counted:  # a closure may be called several times in a step
                self._count()
                counted = True
            return self._act()

        if closure is None:
            act()
            return None

        def closed() -> Any:
            loss, penalty = closure(), act()
            return loss + penalty if isinstance(loss, Tensor | float) else loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closed}
        return (args[0], closed, *args[2:]), kwargs

    def _count(self) -> None:
        """One step more; a method that counts its own steps, for its state, goes by those."""
        state = self._method.state
        self.steps = state.get("steps", self.steps) + 1
        if "steps" in state:
            state["steps"] = self.steps

    def _act(self) -> Tensor | float:
        """Change the gradients; the penalty that was added."""
        penalty: Tensor | float = 0.0
        trained = self._trained()
        self._follow(trained)
        scale = getattr(self._optimizer, "grad_scale", None)  # a fused one unscales in its step
        device = trained[0].device.type
        with outside_training():
            if scale is not None:
                _multiply(trained, 1 / scale)
            if self._penalizes:
                with torch.enable_grad(), torch.autocast(device, enabled=False):
                    penalty = self._penalize(trained)
            with torch.no_grad():
                self._method.filter_gradients(self.steps, self._network)
            if scale is not None:
                _multiply(trained, scale)
        return penalty

    def _penalize(self, trained: list[Tensor]) -> Tensor | float:
        """Add the gradient of the penalty, a mean over the examples of all batches: its value."""
        self.has_seen = self.has_seen or bool(self._batches)
        if not self.has_seen:
            model = type(self._network.models[0]).__name__
            raise ValueError(
                f"{model}, to which {type(self._method).__name__} is attached, was not called, or "
                "no gradient went through its outputs, before the optimizer stepped: attach to the "
                "module that the loop calls; if torch.compile had compiled that before, to what "
                "torch.compile returned, or call torch.compiler.reset() after attach"
            )
        # a user's own may ask for a batch that is one tensor
        penalty_of: Callable[..., Tensor | None] = self._method.penalty
        # of several processes each must take part in every sum, or the others wait for it
        kept = self._batches.unchanged()
        batches = [each for each in kept if self._distributed or batch_size(each)]
        total = sum(map(batch_size, batches))
        value: Tensor | float = 0.0
        for batch in batches:
            whole = map_leaves(lambda leaf: leaf.unsqueeze(0), batch)
            penalty = penalty_of(self.steps, self._network, whole, None)
            if penalty is None:
                break
            penalty = penalty.sum() * batch_size(batch) / total
            self._add(trained, torch.autograd.grad(penalty, trained, allow_unused=True))
            value = value + penalty.detach()
        return value

    @torch.no_grad()
    def _add(self, trained: list[Tensor], gradients: tuple[Tensor | None, ...]) -> None:
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                continue
            if self._distributed:  # as the loss's own gradients are averaged
                torch.distributed.all_reduce(gradient)
                gradient = gradient / torch.distributed.get_world_size()
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad.add_(gradient)


def _as_called(model: nn.Module) -> nn.Module:
    """The module whose hooks run when a loop calls a model: the one within wrappers.

    What ``torch.compile`` returned has its own: those of the module within are compiled with it, or
    left out where its code is older than they are.
    """
    return model if hasattr(model, "_orig_mod") else without_wrappers(model)


def _tensors_in(outputs: Any) -> Iterator[Tensor]:
    """The tensors that a model returned, also within tuples, dictionaries and dataclasses."""
    if isinstance(outputs, Tensor):
        yield outputs
        return
    inner: Any = ()
    if isinstance(outputs, Mapping):
        inner = outputs.values()
    elif isinstance(outputs, tuple | list):
        inner = outputs
    elif is_dataclass(outputs):
        inner = vars(outputs).values()
    for each in inner:
        yield from _tensors_in(each)


@torch.no_grad()
def _multiply(parameters: list[Tensor], factor: Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.device))
