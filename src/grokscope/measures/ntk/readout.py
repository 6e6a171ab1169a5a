"""The trace of a kernel whose k outputs are a linear map of r < k features.

Where a model ends in ``f = W h + b``, as a language model of k tokens does on r features, the
cotangent of h is ``W^T u`` for a direction u of the outputs. A trace is the same in every
orthonormal basis of the outputs: in one whose first r vectors span the columns of W, the other
k - r have no derivative but by W and b themselves, which is that of f = W h + b for one output:

    trace K(x, x') = sum_{i <= r} K_{u_i u_i}(x, x') + (k - r) (<h, h'> + 1).

So r backward passes do in place of k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.measures.company import outputs_at
from grokscope.measures.ntk.capture import Source
from grokscope.measures.ntk.inspect import Inspection
from grokscope.measures.ntk.record import Record, Recorder

# of k outputs, the share that must be left for the passes saved to outweigh the two added
_WORTHWHILE = 0.75
# how large rounding may leave what vanishes, relative to what does not
_ROUNDING = {torch.float64: 1e-8}
_COARSE = 1e-3


@dataclass(frozen=True)
class Readout:
    """The last linear map of a model.

    Attributes:
        index: which of the recorded calls it is.
        basis: (r, k), orthonormal, of the outputs that its features reach.
    """

    index: int
    basis: Float[Tensor, "r k"]

    def features(
        self, source: Source, chosen: Mapping[str, nn.Parameter], chunk: int
    ) -> Tensor | None:
        """What the map's own parameters meet, (n, F); None where it is no such map after all.

        The bias meets a one, or whatever the outputs are multiplied by after the map.
        """
        starts = range(0, len(source), chunk)
        parts = [self._features(source.examples(slice(i, i + chunk)), chosen) for i in starts]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if len(found) == len(parts) else None

    def _features(self, source: Source, chosen: Mapping[str, nn.Parameter]) -> Tensor | None:
        calls, dtype = source.found.calls, source.found.dtype
        with Recorder(source.found.shared, len(source)) as recorder:
            outputs = outputs_at(source.model, source.x)
        records = recorder.records
        if [c.rule.key for c in calls] != [r.rule.key for r in records]:
            return None
        call, own = calls[self.index], records[self.index]
        upstream = [record.output for record in records if record is not own]
        ids = own.rule.key[1:]
        upstream += [p for p in chosen.values() if id(p) not in ids]
        anywhere, outside = self._two_directions(outputs)
        some = _gradients(outputs, anywhere, [own.output, *upstream])
        none = _gradients(outputs, outside, [own.output, *upstream])
        if some[0] is None or none[0] is None:
            return None
        g = own.rule.cotangents(none[0], call.output_axis).to(dtype)
        outside = outside.to(dtype)
        factor = (g @ outside) / outside.square().sum()
        rounding = _ROUNDING.get(outputs.dtype, _COARSE)
        rest = (g - factor.unsqueeze(2) * outside).norm()
        if rest > rounding * g.norm() or _norm(none[1:]) > rounding * _norm(some[1:]):
            return None
        return _met(own, call.input_axis, factor, chosen, dtype)

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


def _met(
    own: Record, axis: Any, factor: Tensor, chosen: Mapping[str, nn.Parameter], dtype: torch.dtype
) -> Tensor:
    """The inputs (n, I) of the map where its weight is chosen, and a column for its bias."""
    ids = {id(parameter) for parameter in chosen.values()}
    columns = [factor.new_zeros(len(factor), 0)]
    if id(own.rule.weight) in ids:
        columns.append((factor.unsqueeze(2) * own.rule.inputs(axis).to(dtype)).sum(1))
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
    return sum(float(t.double().square().sum()) for t in dense) ** 0.5
