"""A method that acts when the optimizer steps, without a change to the training loop.

Right before the optimizer steps the loop's own gradients stand in the parameters' ``.grad``:
accumulated over micro-batches, averaged over processes and, in mixed precision, unscaled. There a
penalty's gradient is added to them, taken on the inputs that the model was trained on since the
step before, and there they are filtered. What clips gradients before the step does not see it.

An optimizer that is given a closure, as Lightning's are, computes its gradients within its step:
the method then acts at the end of the closure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.measures.batches import Batch, batch_size, detached, map_leaves
from grokscope.measures.guard import without_wrappers
from grokscope.measures.view import View
from grokscope.methods.networks import OneNetwork

if TYPE_CHECKING:
    from grokscope.methods.base import Method

Inputs = Callable[[tuple[Any, ...], dict[str, Any]], Batch]


def innermost_optimizer(optimizer: Any) -> Optimizer:
    """PyTorch's optimizer in what is given: itself, or held as Accelerate and Lightning hold it.

    Raises:
        TypeError: if there is none.
    """
    inner = optimizer
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
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
            "the model is called with positional and keyword arguments: call it with one "
            "batch, as model(x), model(*x) or model(**x), or attach to a gs.View of it"
        )
    return kwargs or (args[0] if len(args) == 1 else args)


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
        ValueError: if the method changes the inputs.
    """

    # while one acts, forward and backward passes are its own and not the training's
    _acting: ClassVar[bool] = False

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
        self._noted: list[Batch] = []  # of forward passes that no backward pass has followed yet
        self._batches: list[Batch] = []  # of those whose gradients have been accumulated
        self._calls: list[tuple[nn.Module, Any]] = []  # those under way, the outermost first
        self._called_with: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._stepped = False
        self.has_seen = False
        self.steps = 0
        self._handles = [self._optimizer.register_step_pre_hook(self._before_step)]
        if method.adds_penalty():
            self._watch()

    def _watch(self) -> None:
        """Note what the model is called with, and when its gradients are accumulated."""
        called = self._network.models[0]
        watched = [called]
        while isinstance(called, View) and isinstance(called._view_model, nn.Module):
            called = without_wrappers(called._view_model)
            watched.append(called)
        for module in watched:
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        self._handles.extend(own.register_hook(self._backward) for own in self._trained())

    def detach(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._noted, self._batches = [], [], []

    def _trained(self) -> list[Tensor]:
        """The parameters that the optimizer moves, as they are at the time."""
        groups = self._optimizer.param_groups
        return [own for group in groups for own in group["params"] if own.requires_grad]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        outer = self._calls[-1] if self._calls else None
        self._calls.append((module, module.forward))
        # Lightning runs its training step as the forward pass of a module wrapped for several
        # processes, and puts the module's own back before it calls it on the inputs.
        takes_inputs = outer is None or (outer[0] is module and outer[1] != module.forward)
        if takes_inputs and not Attachment._acting and torch.is_grad_enabled():
            self._called_with = (args, kwargs) if module.training else None

    def _leave(self, module: nn.Module, _args: Any, _outputs: Any) -> None:
        self._calls.pop()
        if self._calls or self._called_with is None:
            return
        args, kwargs = self._called_with
        self._called_with = None
        try:
            self._noted.append(detached(self._inputs(args, kwargs)))
        except TypeError as error:
            raise TypeError(
                f"{type(module).__name__}, to which {type(self._method).__name__} is attached, is "
                f"not called with a batch of tensors ({error}): attach to the module within it "
                "that is, or to a gs.View"
            ) from None

    def _backward(self, _gradient: Tensor | None) -> None:
        """Before a gradient is accumulated: the forward passes before it belong to the step.

        Where no parameter has a gradient, the ones before have been dropped, also by a loop whose
        ``GradScaler`` left the step out.
        """
        if Attachment._acting or not self._noted:
            return
        if self._stepped or all(own.grad is None for own in self._trained()):
            self._batches, self._stepped = [], False
        self._batches += self._noted
        self._noted = []

    def _before_step(
        self, _optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        counted = False

        def act() -> None:
            nonlocal counted
            self._stepped, self._noted = True, []
            if leaves_out(self._optimizer) or all(own.grad is None for own in self._trained()):
                return
            if not counted:  # a closure may be called several times in a step
                self._count()
                counted = True
            self._act()

        if closure is None:
            act()
            return None

        def closed() -> Any:
            loss = closure()
            act()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closed}
        return (args[0], closed, *args[2:]), kwargs

    def _count(self) -> None:
        """One step more; a method that counts its own steps, for its state, goes by those."""
        state = self._method.state
        self.steps = state.get("steps", self.steps) + 1
        if "steps" in state:
            state["steps"] = self.steps

    def _act(self) -> None:
        trained = self._trained()
        scale = getattr(self._optimizer, "grad_scale", None)  # a fused one unscales in its step
        device = trained[0].device.type
        Attachment._acting = True
        try:
            if scale is not None:
                _multiply(trained, 1 / scale)
            if self._method.adds_penalty():
                with torch.enable_grad(), torch.autocast(device, enabled=False):
                    self._penalize(trained)
            with torch.no_grad():
                self._method.filter_gradients(self.steps, self._network)
            if scale is not None:
                _multiply(trained, scale)
        finally:
            Attachment._acting = False

    def _penalize(self, trained: list[Tensor]) -> None:
        """Add the gradient of the penalty, a mean over the examples of all batches."""
        self.has_seen = self.has_seen or bool(self._batches)
        if not self.has_seen:
            model = type(self._network.models[0]).__name__
            raise ValueError(
                f"{model}, to which {type(self._method).__name__} is attached, was not called in "
                "training mode before the optimizer stepped: attach to the module that the loop "
                "calls"
            )
        # a user's own may ask for a batch that is one tensor
        penalty_of: Callable[..., Tensor | None] = self._method.penalty
        total = sum(batch_size(batch) for batch in self._batches)
        for batch in self._batches:
            whole = map_leaves(lambda leaf: leaf.unsqueeze(0), batch)
            penalty = penalty_of(self.steps, self._network, whole, None)
            if penalty is None:
                return
            share = batch_size(batch) / total
            gradients = torch.autograd.grad(penalty.sum() * share, trained, allow_unused=True)
            self._add(trained, gradients)

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


@torch.no_grad()
def _multiply(parameters: list[Tensor], factor: Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.device))
