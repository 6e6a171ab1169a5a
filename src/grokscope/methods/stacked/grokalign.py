"""GrokAlign on several networks at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.measures.inputs import check_differentiable
from grokscope.measures.local_map import full_precision
from grokscope.methods._autograd_terms import DifferentiableMap
from grokscope.methods.grokalign import GrokAlign
from grokscope.methods.stacked.base import StackedMethod, normal_numbers
from grokscope.methods.stacked.chain_terms import stacked_squared_norms, stacked_squared_offsets
from grokscope.methods.stacked.network import StackedNetwork


class StackedGrokAlign(StackedMethod[GrokAlign]):
    """The Jacobian penalty of each network; see ``GrokAlign``."""

    def penalty(
        self, step: int, network: StackedNetwork, x: Tensor, outputs: Tensor
    ) -> Float[Tensor, " s"] | None:
        """The penalty of every network at this step, or None."""
        method = self.methods[0]
        if not method.applies(step):
            return None
        norms, offsets = self._squared_terms(network, x, outputs)
        return method.weighted(norms, offsets)

    def _squared_terms(
        self, network: StackedNetwork, x: Tensor, outputs: Tensor
    ) -> tuple[Float[Tensor, "s n"], Float[Tensor, "s n"] | None]:
        check_differentiable(x)
        with_offset = self.methods[0].offset_weight > 0
        with full_precision(x):
            num_outputs = outputs.shape[2] if outputs.ndim == 3 else 1
            directions = self._directions(x.shape[0], x.shape[1], num_outputs, outputs.detach())
            chain = network.chain()
            if chain is not None:
                norms = stacked_squared_norms(chain, directions)
                if not with_offset:
                    return norms, None
                return norms, stacked_squared_offsets(chain).expand_as(norms)
            local = DifferentiableMap(network.flat, x.flatten(0, 1))
            norms, offsets = local.squared_terms(directions.flatten(0, 1))
            shape = x.shape[:2]
            return norms.view(shape), offsets.view(shape) if with_offset else None

    def _directions(self, s: int, n: int, k: int, like: Tensor) -> Float[Tensor, "s n r k"]:
        """For each network the directions that its own method would draw."""
        r = self.methods[0].projections
        if r is None:
            return torch.eye(k, dtype=like.dtype, device=like.device).expand(s, n, k, k)
        generators = [method.generator for method in self.methods]
        normal = normal_numbers(generators, (n, r, k), like.device).to(like.dtype)
        lengths = torch.linalg.vector_norm(normal, dim=3, keepdim=True)
        return normal.div_(lengths) * (k / r) ** 0.5
