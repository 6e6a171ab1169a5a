"""Each example's Jacobian with respect to single parameters, whatever the model does with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from grokscope.measures.inputs import check_outputs


def write_jacobian_rows(
    outs: Sequence[Tensor], model: nn.Module, names: Sequence[str], x: Tensor, directions: Tensor
) -> None:
    """Write the gradients of combinations of the outputs to ``outs``, (r, c, p) per parameter.

    Every example gets its own copy of the parameters under ``vmap``, so that one backward pass
    serves the whole batch. A model that ``vmap`` does not support is run example by example.

    Args:
        outs: where to write, for each parameter of size p.
        model: maps (c, ...) to (c, k) or (c,).
        names: the parameters.
        x: (c, ...) examples.
        directions: (r, k), the combinations of outputs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of operations that vmap only loops over
            _together(outs, model, names, x, directions)
    except (RuntimeError, NotImplementedError, ValueError):
        _one_by_one(outs, model, names, x, directions)


def _together(
    outs: Sequence[Tensor], model: nn.Module, names: Sequence[str], x: Tensor, directions: Tensor
) -> None:
    copies = {}
    for name in names:
        parameter = model.get_parameter(name).detach()
        copies[name] = parameter.expand(len(x), *parameter.shape).requires_grad_()

    def outputs_of(own: dict[str, Tensor], example: Tensor) -> Tensor:
        return check_outputs(functional_call(model, own, (example.unsqueeze(0),)), 1)[0]

    outputs = vmap(outputs_of)(copies, x)
    for r, direction in enumerate(directions):
        grads = torch.autograd.grad(
            outputs,
            list(copies.values()),
            direction.expand_as(outputs),
            retain_graph=r < len(directions) - 1,
            materialize_grads=True,
        )
        for out, grad in zip(outs, grads, strict=True):
            out[r] = grad.reshape(len(x), -1)


def _one_by_one(
    outs: Sequence[Tensor], model: nn.Module, names: Sequence[str], x: Tensor, directions: Tensor
) -> None:
    parameters = [model.get_parameter(name) for name in names]
    for i, example in enumerate(x):
        outputs = check_outputs(model(example.unsqueeze(0)), 1)
        for r, direction in enumerate(directions):
            grads = torch.autograd.grad(
                outputs,
                parameters,
                direction.expand_as(outputs),
                retain_graph=r < len(directions) - 1,
                materialize_grads=True,
            )
            for out, grad in zip(outs, grads, strict=True):
                out[r, i] = (grad.to_dense() if grad.is_sparse else grad).flatten()
