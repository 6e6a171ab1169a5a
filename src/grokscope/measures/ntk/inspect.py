"""One small forward and backward pass that shows how a model uses its parameters.

Two and then three examples go through the model. What changes size between the two passes is the
batch axis of each call's input and output, so a coincidence of sizes misleads nothing. A backward
pass from the first example alone then shows which rows of each call belong to it, and the
autograd graph how often each parameter is used: a use beyond the recorded calls means that the
model also reads the parameter in another way.

Three examples cannot show that a parameter has no part: an expert may see none of them. What they
leave without a gradient is asked of the whole batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from grokscope.measures.batches import Batch, batch_size, chunks, rows
from grokscope.measures.company import Company, few, outputs_at
from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk.record import Record, Recorder
from grokscope.measures.ntk.rules import BatchAxis, LinearRule, Rule
from grokscope.measures.view import outputs_of

# a copy's own leading axis of one stands for the batch; or that many axes follow the batch axis
_LEADING = -1
_WAYS = (_LEADING, 0, 1, 2)
_NO_BATCH = "called once for all examples"
# examples and bytes of the passes that look for parameters which few examples use
_LOOKED_AT, _LOOKED_BYTES = 256, 200_000_000


@dataclass
class Call:
    """A recorded call with its examples located; ``reason`` says why not, where they are not."""

    rule: Rule
    input_axis: BatchAxis = field(default_factory=lambda: BatchAxis(0))
    output_axis: BatchAxis = field(default_factory=lambda: BatchAxis(0))
    positions: int = 1
    active: int = 1
    features: int = 1
    width: int = 1
    reason: str = ""


@dataclass
class Inspection:
    """What the small passes showed.

    Attributes:
        calls: the calls of known operations, in order.
        num_uses: how often each parameter, by id, is used.
        three: the examples.
        shared: keys of the look-ups that are made once for all examples.
        company: their outputs, to compare with those of the whole batch.
        outputs: (3, k).
        weights: (k,), of the outputs in ``gradients``.
        gradients: of the first example's weighted outputs, by parameter's id; none where the
            outputs do not depend on a parameter.
        rarely_used: ids of the parameters that some examples have a gradient of, but not the first.
        saved_bytes: what an example's forward pass keeps for the backward pass.
        readout: which call is the linear map, at one position, that the outputs are; None if none.
    """

    calls: list[Call]
    num_uses: Counter[int]
    three: Batch
    shared: frozenset[Any]
    company: Company
    outputs: Tensor
    weights: Tensor
    gradients: dict[int, Tensor]
    rarely_used: set[int]
    saved_bytes: int
    readout: int | None

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.outputs.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What the kernel is computed in: float32 or wider."""
        return torch.promote_types(self.outputs.dtype, torch.float32)


def inspected(
    model: nn.Module, x: Batch, parameters: Mapping[str, nn.Parameter], name: str = "x"
) -> Inspection:
    """Pass three examples of ``x`` through ``model`` and say how it uses ``parameters``."""
    two = rows(x, few(batch_size(x))[:2])
    short = _Short.of(model, two, frozenset())
    # positions are looked up once for all examples: try a copy of them for each
    shared = frozenset(r.rule.key for r in short.records if _is_of_none(r.rule))
    if shared and (spread := _spread(model, x, parameters, name, shared, short.outputs)):
        return spread
    found = _inspected(model, x, parameters, name, frozenset(), short)
    shared = frozenset(
        call.rule.key
        for call in found.calls
        if call.rule.family == "lookup"
        and call.reason == _NO_BATCH
        and (call.rule.input.ndim == 1 or len(call.rule.input) == 1)
    )
    spread = _spread(model, x, parameters, name, shared, found.outputs[:2]) if shared else None
    return spread or found


@dataclass
class _Short:
    """The outputs of two examples, and the calls that were made."""

    outputs: Tensor
    records: list[Record]

    @classmethod
    def of(cls, model: nn.Module, two: Batch, shared: frozenset[Any]) -> _Short:
        with Recorder(shared, 2) as recorder:
            outputs = outputs_at(model, two)
        return cls(outputs.detach(), recorder.records)


def _is_of_none(rule: Rule) -> bool:
    """Whether a look-up for two examples is plainly made once for both."""
    return rule.family == "lookup" and rule.input.ndim > 1 and len(rule.input) == 1


def _spread(
    model: nn.Module,
    x: Batch,
    parameters: Mapping[str, nn.Parameter],
    name: str,
    shared: frozenset[Any],
    outputs: Tensor,
) -> Inspection | None:
    """The inspection with a copy of what was looked up for each example, if outputs stay so."""
    two = rows(x, few(batch_size(x))[:2])
    try:
        short = _Short.of(model, two, shared)
        if short.outputs.shape != outputs.shape or not _close(short.outputs, outputs):
            return None
        return _inspected(model, x, parameters, name, shared, short)
    except (RuntimeError, ValueError, TypeError):
        return None


def _inspected(
    model: nn.Module,
    x: Batch,
    parameters: Mapping[str, nn.Parameter],
    name: str,
    shared: frozenset[Any],
    short: _Short,
) -> Inspection:
    index = few(batch_size(x))
    three = rows(x, index)
    outputs, long, saved = _watched(model, three, shared)
    company = Company(model, x, index, name, outputs)
    company.compare(short.outputs, [0, 1])
    wanted = list(parameters.values())
    edges: list[Any] = [r.output for r in long.records]
    weights = torch.linspace(0.5, 1.5, outputs.shape[1], dtype=outputs.dtype).to(outputs.device)
    grads: Sequence[Tensor | None] = [None] * (len(edges) + len(wanted))
    if not outputs.requires_grad:
        raise ValueError(
            "model's outputs carry no gradient to its parameters: it detaches them or runs under "
            "torch.no_grad or inference_mode; pass a differentiable model"
        )
    first = (outputs[0] * weights).sum()
    grads = torch.autograd.grad(first, [*edges, *wanted], allow_unused=True, retain_graph=True)
    same = len(short.records) == len(long.records)
    calls = [
        _located(record, short.records[i] if same else None, grads[i])
        for i, record in enumerate(long.records)
    ]
    by_parameter = zip(wanted, grads[len(edges) :], strict=True)
    gradients = {
        id(p): g.to_dense() if g.is_sparse else g for p, g in by_parameter if g is not None
    }
    idle = [p for p in wanted if id(p) not in gradients]
    return Inspection(
        calls=calls,
        num_uses=_num_uses(outputs),
        three=three,
        shared=shared,
        company=company,
        outputs=outputs.detach(),
        weights=weights,
        gradients=gradients,
        rarely_used=_used_by_any(model, x, idle, saved) if idle else set(),
        saved_bytes=saved,
        readout=_readout(calls, grads, weights),
    )


def _readout(calls: Sequence[Call], grads: Sequence[Tensor | None], weights: Tensor) -> int | None:
    """The last call of a matrix whose cotangent is that of the outputs, or in proportion to it."""
    for i, call in reversed(list(enumerate(calls))):
        grad = grads[i]
        if call.reason or grad is None or not isinstance(call.rule, LinearRule):
            continue
        if call.active != 1 or call.width != len(weights):
            continue
        cotangent = call.rule.cotangents(grad, call.output_axis)[0].sum(0)
        unit = weights / weights.norm()
        if _close(cotangent, (cotangent @ unit) * unit):
            return i
    return None


def _watched(
    model: nn.Module, three: Batch, shared: frozenset[Any]
) -> tuple[Tensor, Recorder, int]:
    """The outputs, the calls made, and the bytes that an example keeps for the backward pass."""
    saved: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Recorder(shared, 3) as recorder, saved_tensors_hooks(note, lambda t: t):
        outputs = outputs_at(model, three)
    if not bool(torch.isfinite(outputs.detach()).all()):
        raise ValueError("model returns NaN or infinity at x; its kernel is not defined there")
    return outputs, recorder, sum(saved.values()) // 3


def _used_by_any(
    model: nn.Module, x: Batch, parameters: Sequence[nn.Parameter], saved_bytes: int
) -> set[int]:
    """The ids of those ``parameters`` that a random mixture of all outputs has a gradient of."""
    generator = torch.Generator().manual_seed(0)
    size = max(1, min(_LOOKED_AT, _LOOKED_BYTES // max(saved_bytes, 1)))
    used: set[int] = set()
    for part in chunks(x, size):
        outputs = outputs_at(model, part)
        mixture = torch.rand(outputs.shape, generator=generator, dtype=torch.float64) + 0.5
        left = [p for p in parameters if id(p) not in used]
        grads = torch.autograd.grad(
            outputs, left, mixture.to(outputs), allow_unused=True, materialize_grads=False
        )
        for parameter, grad in zip(left, grads, strict=True):
            if grad is not None and bool((grad.to_dense() if grad.is_sparse else grad).any()):
                used.add(id(parameter))
        if len(used) == len(parameters):
            break
    return used


def _located(record: Record, short: Record | None, grad: Tensor | None) -> Call:
    """The call of ``record`` with the axes that hold its examples."""
    rule = record.rule
    name = type(rule).__name__.removesuffix("Rule")
    if short is None or short.rule.key != rule.key:
        return Call(rule, reason="the model's calls depend on the size of the batch")
    input_axis = _axis(tuple(short.rule.input.shape), tuple(rule.input.shape))
    output_axis = _axis(short.output_shape, record.output_shape)
    if input_axis is None or output_axis is None:
        return Call(rule, reason=_NO_BATCH)
    if grad is not None and output_axis.fold > 1:
        order = _folding(grad.movedim(output_axis.axis, 0), output_axis.fold)
        input_axis = BatchAxis(input_axis.axis, input_axis.fold, order)
        output_axis = BatchAxis(output_axis.axis, output_axis.fold, order)
    if not rule.accepts(input_axis):
        return Call(rule, reason=f"{name} is called on an input that the rule does not cover")
    if grad is None:
        grad = rule.input.new_zeros(record.output_shape, dtype=torch.float32)
    cotangents = rule.cotangents(grad, output_axis)
    if bool(cotangents[1:].any()):
        return Call(rule, reason=f"the rows of a call of {name} are not one example's each")
    active = int(cotangents[0].any(dim=1).sum())
    features = 1 if rule.family == "lookup" else rule.inputs(input_axis).shape[2]
    positions, width = cotangents.shape[1:]
    return Call(rule, input_axis, output_axis, positions, max(active, 1), features, width)


def _axis(two: tuple[int, ...], three: tuple[int, ...]) -> BatchAxis | None:
    """The axis whose size follows the number of examples, from the shapes for two and three."""
    differing = [i for i, (a, b) in enumerate(zip(two, three, strict=False)) if a != b]
    if len(two) != len(three) or len(differing) != 1:
        return None
    axis = differing[0]
    if two[axis] * 3 != three[axis] * 2 or two[axis] % 2:
        return None
    return BatchAxis(axis, two[axis] // 2)


def _folding(grad: Tensor, fold: int) -> bool:
    """Whether positions vary slowest, given the first of three examples' cotangent rows."""
    touched = set(grad.flatten(1).any(dim=1).nonzero().flatten().tolist())
    return not touched <= set(range(fold)) and touched <= set(range(0, 3 * fold, 3))


def _num_uses(outputs: Tensor) -> Counter[int]:
    """How many edges of the autograd graph of ``outputs`` lead into each parameter, by id."""
    counts: Counter[int] = Counter()
    seen = set()
    stack = [outputs.grad_fn] if outputs.grad_fn is not None else []
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for parent, _ in node.next_functions:
            if parent is None:
                continue
            variable = getattr(parent, "variable", None)
            if variable is not None:
                counts[id(variable)] += 1
            else:
                stack.append(parent)
    return counts


def copies(parameter: Tensor, way: int, count: int) -> Tensor:
    """``count`` copies of ``parameter``, as a view that records gradients.

    A positional embedding added to (n, S, d), a gain, a matrix: where such a parameter broadcasts
    against a batch, it can be replaced by a copy of itself for each example without a change in
    the outputs, and the gradient of copy i is that of example i.
    """
    kept = parameter.detach()
    if way != _LEADING:
        kept = kept[(None,) * (way + 1)]
    return kept.expand(count, *kept.shape[1:]).requires_grad_()


def ways_to_expand(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], found: Inspection
) -> dict[str, int]:
    """Those of ``parameters`` that may be expanded, and how; tried out on three examples."""
    first_try = {n: _LEADING if p.shape[:1] == (1,) else 0 for n, p in parameters.items()}
    if first_try and _works(model, first_try, parameters, found):
        return first_try
    ways: dict[str, int] = {}
    for name, parameter in parameters.items():
        for way in _WAYS:
            if way == _LEADING and parameter.shape[:1] != (1,):
                continue
            if _works(model, {**ways, name: way}, parameters, found):
                ways[name] = way
                break
    return ways


def _works(
    model: nn.Module,
    ways: Mapping[str, int],
    parameters: Mapping[str, nn.Parameter],
    found: Inspection,
) -> bool:
    """Whether outputs and the first example's gradients stay what they are."""
    for x in (rows(found.three, slice(0, 2)), found.three):
        count = batch_size(x)
        leaves = {name: copies(parameters[name], way, count) for name, way in ways.items()}
        try:
            outputs = outputs_with(model, leaves, x)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if outputs.shape[1] != found.num_outputs or not _close(outputs, found.outputs[:count]):
            return False
    grads = torch.autograd.grad(
        (outputs * found.weights).sum(), list(leaves.values()), materialize_grads=True
    )
    # of all examples' derivatives the first copy must get the first example's and no other
    return all(
        id(parameters[name]) in found.gradients
        and _close(grad[0].flatten(), found.gradients[id(parameters[name])].flatten())
        for name, grad in zip(ways, grads, strict=True)
    )


def outputs_with(model: nn.Module, replaced: Mapping[str, Tensor], x: Batch) -> Tensor:
    """The outputs (n, k) of ``x`` with some parameters replaced."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(model, dict(replaced), args, kwargs)

    return check_outputs(outputs_of(run, x), batch_size(x))


def _close(first: Tensor, second: Tensor) -> bool:
    allowed = max(1e-4, 16 * torch.finfo(second.dtype).eps) * float(second.abs().max())
    return first.shape == second.shape and float((first - second).detach().abs().max()) <= allowed
