"""The map f(x') = A x' + b that a network is close to x, seen through products with A.

Two ways to the same numbers: a chain of linear layers and piecewise-linear activations has its
factors multiplied out; every other model is differentiated by vector-Jacobian products. The
measures are written once on top of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.measures.batches import (
    Batch,
    Key,
    batch_size,
    chunks,
    leaf_at,
    map_leaves,
    with_leaf,
    wrt_key,
)
from grokscope.measures.chain import Chain, ChainPoint, Fold, chain_of, gram, pull_back
from grokscope.measures.company import Company
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.guard import undisturbed
from grokscope.measures.inputs import (
    NO_GRADIENT,
    Model,
    check_batch,
    check_chunk_size,
    check_finite,
    check_not_batch_dependent,
    check_outputs,
    explained_refusals,
)
from grokscope.measures.magnitudes import norms, power_of_two, scaled, wide
from grokscope.measures.precision import full_precision
from grokscope.measures.view import continuous, outputs_of, unwrapped, wrt_of

# squared lengths of rows, relative to the largest, below which float32 loses digits of them
_SMALL = 1e-24


class Products(NamedTuple):
    """What every measure of the Jacobian A (n, k, d) at x is made of.

    Every row is divided by a power of two of its own, so that its square is representable.
    """

    gram: Tensor  # (n, k, k) B B^T of the divided rows B
    along_x: Tensor  # (n, k) B x
    centroid: Tensor  # (n, d) A^T 1, of the rows themselves
    sizes: Tensor  # (n, k) what the rows were divided by

    def norm(self) -> Float[Tensor, " n"]:
        """The Frobenius norm of A."""
        relative, largest = scaled(self.sizes)
        squares = self.gram.diagonal(dim1=1, dim2=2).clamp_min(0) * relative.square()
        return squares.sum(1).sqrt() * largest


def products_of(jacobian: Float[Tensor, "n k d"], x: Float[Tensor, "n d"]) -> Products:
    """What measures are made of, from the Jacobian itself."""
    rows, sizes = scaled(jacobian)
    return Products(
        gram=rows @ rows.mT,
        along_x=(rows @ x.unsqueeze(2)).squeeze(2),
        centroid=jacobian.sum(1),
        sizes=sizes,
    )


class ChainMap:
    """The local map of a chain, from its factors: O(n k h^2) without an (n, k, d) tensor.

    Examples are flattened: d counts the features of one. ``outputs`` is (n, k), rounded to
    ``outputs_precision``; products with A have the precision ``precision``.
    """

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self._weights = [wide(weight) for weight in chain.weights]
        self.precision, self.outputs_precision = self._weights[0].dtype, x.dtype
        self._x = wide(x).flatten(1)
        self._point: ChainPoint = chain.run(x)
        if x.dtype != self._weights[0].dtype:  # half precision; the activations were decided in it
            self._point = _widened(self._point, wide(x) @ self._weights[0].mT)
        self.outputs = self._point.outputs

    def _above_first_layer(self) -> Float[Tensor, "n k h"]:
        n, k = self.outputs.shape
        eye = torch.eye(k, dtype=self.outputs.dtype, device=self.outputs.device)
        v = pull_back(self._weights, self._point.folds, eye.unsqueeze(0))
        return v.expand(n, k, v.shape[-1])  # a chain without activations has one v for all

    def vjp(self, v: Float[Tensor, "n r k"]) -> Float[Tensor, "n r d"]:
        """The products v A of r output-side vectors for each example."""
        return pull_back(self._weights, self._point.folds, v) @ self._weights[0]

    def jacobian(self) -> Float[Tensor, "n k d"]:
        """A itself."""
        return self._above_first_layer() @ self._weights[0]

    def norm(self) -> Float[Tensor, " n"]:
        """The Frobenius norm of A."""
        v = self._above_first_layer()
        # one size for each example will do: what it makes vanish does not count in the sum
        size = power_of_two(v.abs().amax((1, 2)))
        v = v / size[:, None, None]
        product, first_size = self._times_first_gram(v)
        return (product * v).sum((1, 2)).clamp_min(0).sqrt() * size * first_size

    def products(self) -> Products:
        """The Gram matrix, A x and the centroid from one pass."""
        v = self._above_first_layer()
        rows, sizes = scaled(v)
        product, first_size = self._times_first_gram(rows)
        gram_of_rows = product @ rows.mT
        small = gram_of_rows.diagonal(dim1=1, dim2=2) < _SMALL
        if bool(small.any()) and bool((small & (rows.abs().amax(2) > 0)).any()):
            # rows of W_1 far below its largest: each needs a size of its own
            return products_of(self.jacobian(), self._x)
        return Products(
            gram=gram_of_rows,
            # faster than n products
            along_x=(rows * self._point.first_product.unsqueeze(1)).sum(2) / first_size,
            centroid=v.sum(1) @ self._weights[0],
            sizes=sizes * first_size,
        )

    def _times_first_gram(
        self, v: Float[Tensor, "n k h"]
    ) -> tuple[Float[Tensor, "n k h"], Float[Tensor, ""]]:
        """The product with W_1 W_1^T / s^2, and s."""
        size = power_of_two(self._weights[0].abs().amax())
        first = self._weights[0] / size
        units, inputs = first.shape
        # The Gram matrix of W_1 pays where there are many rows v to meet it.
        if inputs < units or 2 * v.shape[0] * v.shape[1] < units:
            return (v @ first) @ first.mT, size
        return v @ gram(first), size


class AutogradMap:
    """The local map of any differentiable model: k vector-Jacobian products on one graph.

    Examples are flattened: d counts the features of one. ``outputs`` is (n, k), rounded to
    ``outputs_precision``; products with A have the precision ``precision``.
    """

    def __init__(self, model: Model, x: Batch) -> None:
        key = wrt_key(x, wrt_of(model))
        self._leaf = fresh_leaf(leaf_at(x, key))
        self._outputs = differentiable_outputs(model, with_leaf(x, key, self._leaf), key)
        self.outputs = wide(self._outputs.detach())
        ends = self._outputs.dtype, self._leaf.dtype
        self.precision = max(ends, key=lambda dtype: torch.finfo(dtype).eps)
        self.outputs_precision = self.precision

    def vjp(self, v: Float[Tensor, "n r k"]) -> Float[Tensor, "n r d"]:
        """The products v A of r output-side vectors for each example."""
        return torch.stack([self._pull_back(row) for row in v.unbind(1)], 1)

    def jacobian(self) -> Float[Tensor, "n k d"]:
        """A itself."""
        return torch.stack(list(self._rows()), 1)

    def norm(self) -> Float[Tensor, " n"]:
        """The Frobenius norm of A."""
        return norms(torch.stack([norms(row) for row in self._rows()], 1))

    def products(self) -> Products:
        """The Gram matrix, A x and the centroid from one pass."""
        return products_of(self.jacobian(), wide(self._leaf.detach()).flatten(1))

    def _rows(self) -> Iterator[Float[Tensor, "n d"]]:
        for index in range(self.outputs.shape[1]):
            direction = torch.zeros_like(self.outputs)
            direction[:, index] = 1
            yield self._pull_back(direction)

    def _pull_back(self, v: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        (gradient,) = gradients_or_zeros(
            self._outputs, [self._leaf], v.to(self._outputs), retain_graph=True
        )
        return wide(gradient).flatten(1)


LocalMap = ChainMap | AutogradMap


def over_batch(
    model: Model,
    x: Batch,
    chunk_size: int | None,
    measure: Callable[[LocalMap, Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """``measure(local map, leaf it is by)`` for every chunk of a batch, joined along the batch."""

    def measured(part: Batch, key: Key, company: Company | None, start: int) -> tuple[Tensor, ...]:
        chain = _chain(model, part)
        local = AutogradMap(model, part) if chain is None else ChainMap(chain, leaf_at(part, None))
        if company is not None:
            company.check(local.outputs, start)
        return measure(local, wide(leaf_at(part, key)))

    return in_chunks(model, x, chunk_size, measured)


def in_chunks(
    model: Model,
    x: Batch,
    chunk_size: int | None,
    measure: Callable[[Batch, Key, Company | None, int], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """``measure(chunk, key to differentiate by, company, start)`` for every chunk of the batch.

    The results are joined along the batch. It runs without a graph and without autocast, wherever
    the caller stands: a derivative is taken in the precision of the weights. The measure compares
    the outputs, of the examples from ``start`` on, with ``company``; that is None for a chain of
    known layers, in which examples cannot meet.
    """
    check_batch(x)
    check_chunk_size(chunk_size)
    check_not_batch_dependent(model)
    with (
        explained_refusals(),
        undisturbed(model) as rewind,
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        x = continuous(model, x)
        key = wrt_key(x, wrt_of(model))
        leaf = leaf_at(x, key)
        check_finite(leaf, key)
        with full_precision(leaf):
            # without a graph, and not of inference mode, which autograd refuses to save
            x = map_leaves(lambda own: own.clone() if own.is_inference() else own.detach(), x)
            company = None
            if _chain(model, x) is None:
                company = Company(model, x, chunk_size=chunk_size)
                rewind()
            parts: list[tuple[Tensor, ...]] = []
            starts = range(0, batch_size(x), chunk_size or batch_size(x))
            for start, part in zip(starts, chunks(x, chunk_size), strict=True):
                if start:
                    rewind()
                parts.append(measure(part, key, company, start))
            return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def fresh_leaf(tensor: Tensor) -> Tensor:
    """A copy to differentiate by."""
    return tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def _chain(model: Model, x: Batch) -> Chain | None:
    return chain_of(unwrapped(model), x) if isinstance(x, Tensor) else None


def _widened(point: ChainPoint, first_product: Tensor) -> ChainPoint:
    folds = [Fold(*(None if part is None else wide(part) for part in f)) for f in point.folds]
    return ChainPoint(wide(point.outputs), first_product, folds)


def differentiable_outputs(model: Model, x: Batch, key: Key = None) -> Float[Tensor, "n k"]:
    """The model's outputs at ``x``, with a graph back to its leaf at ``key``."""
    with torch.enable_grad():
        outputs = check_outputs(outputs_of(model, x), batch_size(x))
    if not outputs.requires_grad:
        raise ValueError(NO_GRADIENT)
    return outputs
