"""Jacobian norm and offset of any differentiable model, by double backward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokscope.measures.batches import Batch, Key, detached, leaf_at, with_leaf
from grokscope.measures.local_map import differentiable_outputs
from grokscope.measures.view import Model, View


class DifferentiableMap:
    """Products with the Jacobian A at x that are differentiable in the model's parameters."""

    def __init__(self, model: Model, x: Batch, key: Key = None) -> None:
        self._leaf = leaf_at(x, key).detach().clone().requires_grad_()
        given = with_leaf(detached(x), key, self._leaf)
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels differentiate only once
            self.outputs = differentiable_outputs(_undisturbed(model), given, key)

    def squared_terms(
        self, directions: Float[Tensor, "n r k"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The squares of u^T A and of u^T b, b = f(x) - A x, summed over the r directions u.

        A x is read off the rows u^T A. As a derivative of its own it would be of third order, and
        there PyTorch has ops that are silently wrong (LayerNorm, as of 2.13).
        """
        norms = offsets = torch.zeros_like(self.outputs[:, 0])
        x = self._leaf.detach()
        for u in directions.unbind(1):
            (row,) = torch.autograd.grad(
                self.outputs, self._leaf, u, create_graph=True, materialize_grads=True
            )
            norms = norms + row.flatten(1).square().sum(1)
            offset = (u * self.outputs).sum(1) - (row * x).flatten(1).sum(1)
            offsets = offsets + offset.square()
        return norms, offsets


def _undisturbed(model: Model) -> Model:
    """The model on copies of its buffers, so that running statistics see each batch once."""
    if not isinstance(model, nn.Module) or not any(m.training for m in model.modules()):
        return model
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if not copies:
        return model

    def undisturbed(*args: Any, **entries: Any) -> Any:
        return functional_call(model, copies, args, entries)

    # a view takes its batch whole, whatever its kind
    return View(undisturbed, lambda f, x: f(x)) if isinstance(model, View) else undisturbed
