"""The combinations of outputs that a kernel is between, as few as suffice.

A full kernel is between all k outputs, the kernel of the summed outputs between one combination. A
trace is the same in every orthonormal basis of the outputs, and some need few passes: where a model
ends in ``f = W h + b``, as a language model of k tokens does on r features, the cotangent of h is
``W^T u`` for a direction u of the outputs. In a basis whose first r vectors span the columns of W,
the other k - r have no derivative but by W and b themselves, which is that of f = W h + b for one
output:

    trace K(x, x') = sum_{i <= r} K_{u_i u_i}(x, x') + (k - r) (<h, h'> + 1).

So r backward passes do in place of k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.measures.company import outputs_at
from grokscope.measures.magnitudes import inner_product
from grokscope.measures.ntk.capture import Source
from grokscope.measures.ntk.inspect import Inspection, Record, Recorder
from grokscope.measures.ntk.memory import chunk_length
from grokscope.measures.ntk.rules import BatchAxis

# of k outputs, the share that must be left for the passes saved to outweigh the two added
_WORTHWHILE = 0.75
# how large rounding may leave what vanishes, relative to what does not
_ROUNDING = {torch.float64: 1e-8}
_COARSE = 1e-3


def directions_of(
    reduce: str, first: Source, second: Source | None, chunk_size: int | None
) -> tuple[Float[Tensor, "r k"], Float[Tensor, "n1 n2"] | None]:
    """The combinations that a kernel is between, and a trace's part of all others, if any."""
    outputs, k = first.found.outputs, first.found.num_outputs
    if reduce == "sum":
        return outputs.new_ones(1, k), None
    if reduce == "trace" and (readout := readout_of(first.found)) is not None:
        one = readout.features(first, chunk_size)
        two = one if second is None or one is None else readout.features(second, chunk_size)
        if one is not None and two is not None:
            # for each of the k - r directions u outside the span W^T u = 0: nothing below the
            # readout moves, and df/dW = u h^T, df/db = u leave <h, h'> + 1, the same for all of
            # them
            beyond = (k - len(readout.basis)) * (one @ two.T)
            return readout.basis, (beyond + beyond.T) / 2 if second is None else beyond
    return torch.eye(k, dtype=outputs.dtype, device=outputs.device), None


def with_mixture(directions: Float[Tensor, "r k"]) -> Float[Tensor, "r1 k"]:
    """``directions`` and one more row, a random mixture of all outputs.

    A kernel that is summed over outputs cannot be checked by products with vectors; the kernel of
    one more row, which goes the same way, can.
    """
    k = directions.shape[1]
    mixture = torch.randn(1, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([directions, (mixture / math.sqrt(k)).to(directions)])


@dataclass(frozen=True)
class Readout:
    """The last linear map of a model.

    Attributes:
        index: which of the recorded calls it is.
        basis: (r, k), orthonormal, of the outputs that its features reach.
    """

    index: int
    basis: Float[Tensor, "r k"]

    def features(self, source: Source, chunk_size: int | None = None) -> Tensor | None:
        """What the map's own parameters meet, (n, F); None where it is no such map after all.

        The bias meets a one, or whatever the outputs are multiplied by after the map.
        """
        chunk = chunk_size or chunk_length([], 1, source.found.saved_bytes, 1)
        starts = range(0, len(source), chunk)
        parts = [self._features(source.examples(slice(i, i + chunk))) for i in starts]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None

    def _features(self, source: Source) -> Tensor | None:
        found = source.found
        with Recorder(found.shared, len(source)) as recorder:
            outputs = outputs_at(source.model, source.x)
        records = recorder.records
        if [c.rule.key for c in found.calls] != [r.rule.key for r in records]:
            return None
        call, own = found.calls[self.index], records[self.index]
        upstream = [record.output for record in records if record is not own]
        ids = own.rule.key[1:]
        upstream += [p for p in found.parameters.values() if id(p) not in ids]
        anywhere, outside = self._two_directions(outputs)
        some = _gradients(outputs, anywhere, [own.output, *upstream])
        none = _gradients(outputs, outside, [own.output, *upstream])
        if some[0] is None or none[0] is None:
            return None
        g = own.rule.cotangents(none[0], call.output_axis).to(found.dtype)
        outside = outside.to(found.dtype)
        # one for a plain readout; a scale after it (logits over a temperature) shows up here
        factor = (g @ outside) / outside.square().sum()
        # the claim is tested, not assumed: outside of the basis the map's cotangent is the
        # direction itself, up to a factor, and nothing before the map has a gradient
        rounding = _ROUNDING.get(outputs.dtype, _COARSE)
        rest = (g - factor.unsqueeze(2) * outside).norm()
        if rest > rounding * g.norm() or _norm(none[1:]) > rounding * _norm(some[1:]):
            return None
        return _met(own, call.input_axis, factor, found)

    def _two_directions(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """A random direction (k,) of the outputs, and one that the features do not reach."""
        generator = torch.Generator().manual_seed(1)
        k = outputs.shape[1]
        anywhere, other = torch.randn(2, k, generator=generator, dtype=torch.float64)
        basis = self.basis.double().cpu()
        outside = other - basis.T @ (basis @ other)
        return anywhere.to(outputs), outside.to(outputs)


def readout_of(found: Inspection) -> Readout | None:
    """The linear map that a model's outputs come from, where it has fewer features than outputs."""
    if found.readout is None:
        return None
    rule = found.calls[found.readout].rule
    weight = rule.weight
    assert weight is not None
    weight = weight.detach().double()
    weight = weight.T if rule.transposed else weight
    k, features = weight.shape
    if features > _WORTHWHILE * k:
        return None
    basis = torch.linalg.qr(weight)[0].T.to(found.outputs)
    return Readout(found.readout, basis)


def _met(own: Record, axis: BatchAxis, factor: Tensor, found: Inspection) -> Tensor:
    """The inputs (n, I) of the map where its weight is chosen, and a column for its bias."""
    ids = {id(parameter) for parameter in found.parameters.values()}
    columns = [factor.new_zeros(len(factor), 0)]
    if id(own.rule.weight) in ids:
        columns.append((factor.unsqueeze(2) * own.rule.inputs(axis).to(found.dtype)).sum(1))
    if id(own.rule.bias) in ids:
        columns.append(factor.sum(1, keepdim=True))
    return torch.cat(columns, dim=1)


def _gradients(outputs: Tensor, direction: Tensor, sources: list[Any]) -> list[Tensor | None]:
    return list(
        torch.autograd.grad(
            outputs, sources, direction.expand_as(outputs), retain_graph=True, allow_unused=True
        )
    )


def _norm(tensors: list[Tensor | None]) -> float:
    dense = [t.to_dense() if t.is_sparse else t for t in tensors if t is not None]
    return sum(inner_product(t, t) for t in dense) ** 0.5
