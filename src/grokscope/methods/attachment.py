"""A penalty that acts when the optimizer steps, without a change to the training loop.

Between two steps of the optimizer the inputs that the model is trained on are noted. Right before
the next step the gradient of the penalty on them is added to the parameters' ``.grad``, where the
loop's own gradients stand by then: accumulated over micro-batches, averaged over processes and, in
mixed precision, unscaled. What clips gradients before the step has not seen the penalty's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.measures.batches import Batch, batch_size, detached
from grokscope.measures.guard import without_wrappers

Penalty = Callable[[nn.Module, Batch], Tensor]


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


class Attachment:
    """The hooks that add a penalty's gradient at each step of an optimizer.

    Args:
        model: what is trained, wrapped (DistributedDataParallel, torch.compile) or not.
        optimizer: whose steps count; one that holds PyTorch's, as Accelerate's, serves too.
        penalty: of the model and a micro-batch, a scalar that is a mean over examples.
        applies: asked once at each step whether there is a penalty at it.

    Raises:
        TypeError: if there is no module, or no ``torch.optim.Optimizer`` in what is given.
    """

    def __init__(
        self, model: nn.Module, optimizer: Any, penalty: Penalty, applies: Callable[[], bool]
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module: got {type(model).__name__}")
        inner = innermost_optimizer(optimizer)
        self._model = without_wrappers(model)
        self._is_distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        self._penalty = penalty
        self._applies = applies
        self._batches: list[Batch] = []
        self._stepped = False
        self._measuring = False
        self._parameters = [
            p for group in inner.param_groups for p in group["params"] if p.requires_grad
        ]
        self._handles = [
            self._model.register_forward_pre_hook(self._note, with_kwargs=True),
            inner.register_step_pre_hook(self._add),
        ]

    def detach(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._batches = [], []

    def _note(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._measuring or not torch.is_grad_enabled() or not self._model.training:
            return
        # Gradients that are gone mean a new window, also where a GradScaler skipped the step.
        if self._stepped or all(parameter.grad is None for parameter in self._parameters):
            self._batches, self._stepped = [], False
        if args and kwargs:
            raise ValueError(
                "the model is called with positional and keyword arguments: call it with one "
                "batch, as model(x), model(*x) or model(**x), or attach to a gs.View of it"
            )
        batch: Any = kwargs or (args[0] if len(args) == 1 else args)
        self._batches.append(detached(batch))

    def _add(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._stepped = True
        if not self._applies() or not self._batches:
            return
        total = sum(batch_size(batch) for batch in self._batches)
        self._measuring = True
        try:
            with torch.enable_grad():
                for batch in self._batches:
                    share = batch_size(batch) / total
                    gradients = torch.autograd.grad(
                        self._penalty(self._model, batch) * share,
                        self._parameters,
                        allow_unused=True,
                    )
                    self._add_up(gradients, getattr(optimizer, "grad_scale", None))
        finally:
            self._measuring = False

    @torch.no_grad()
    def _add_up(self, gradients: tuple[Tensor | None, ...], scale: Tensor | None) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is None:
                continue
            if self._is_distributed:  # as the wrapper averages the loss's own gradients
                torch.distributed.all_reduce(gradient)
                gradient = gradient / torch.distributed.get_world_size()
            if scale is not None:  # a fused optimizer divides by it within its step
                gradient = gradient * scale.to(gradient.device)
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad.add_(gradient)
