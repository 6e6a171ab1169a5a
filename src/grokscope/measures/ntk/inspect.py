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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from grokscope.measures.batches import Batch, batch_size, chunks, rows
from grokscope.measures.company import Company, few, outputs_at
from grokscope.measures.ntk.rules import RULES, TAKEN_APART, BatchAxis, LinearRule, Rule

# examples and bytes of the passes that look for parameters which few examples use
_LOOKED_AT, _LOOKED_BYTES = 256, 200_000_000


@dataclass
class Record:
    """One call: its rule, and the place of its output in the graph."""

    rule: Rule
    output: GradientEdge
    output_shape: tuple[int, ...]
    input_version: int

    @property
    def spoilt(self) -> bool:
        """Whether the input was written to since."""
        return self.rule.input._version != self.input_version


class Recorder(TorchFunctionMode):
    """Records, while active, every differentiable call of a known operation on a parameter.

    Args:
        shared: keys of the look-ups that are made once for all examples, as of positions: each
            example then gets its own copy of what was looked up, and so a cotangent of its own.
        count: the number of examples.

    Attributes:
        records: the calls, in order.
    """

    def __init__(self, shared: frozenset[Any], count: int) -> None:
        super().__init__()
        self.records: list[Record] = []
        self._shared, self._count = shared, count

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in TAKEN_APART:
            outputs = TAKEN_APART[func](self._linear, *args, **kwargs)
            if outputs is not None:
                return outputs
        output = func(*args, **kwargs)
        if func in RULES and isinstance(output, Tensor) and output.requires_grad:
            rule = RULES[func](*args, **kwargs)
            if rule is not None and rule.key in self._shared:
                output = self._spread(rule, output)
            self._note(rule, output)
        return output

    def _spread(self, rule: Rule, output: Tensor) -> Tensor:
        """The output of a look-up with an axis for the examples, as broadcasting would give it."""
        if rule.input.ndim == 1:
            rule.input, output = rule.input.unsqueeze(0), output.unsqueeze(0)
        rule.input = rule.input.expand(self._count, *rule.input.shape[1:])
        return output.expand(self._count, *output.shape[1:])

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, recorded."""
        output = F.linear(x, weight, bias)
        if output.requires_grad:
            self._note(LinearRule(x, weight, bias), output)
        return output

    def _note(self, rule: Rule | None, output: Tensor) -> None:
        if rule is None or not isinstance(rule.input, Tensor):
            return
        if not isinstance(rule.weight, nn.Parameter) and not isinstance(rule.bias, nn.Parameter):
            return
        version, rule.input = rule.input._version, rule.input.detach()
        try:
            # the edge, not the tensor: a later in-place operation, as of nn.ReLU(inplace=True),
            # changes the tensor's place in the graph
            edge = get_gradient_edge(output)
        except RuntimeError:  # inside of a functional transformation
            return
        self.records.append(Record(rule, edge, tuple(output.shape), version))


@dataclass
class Call:
    """A recorded call with its examples located; ``reason`` says why not, where they are not.

    Attributes:
        positions, features, width: S, I and O.
        active: the positions that the first example's outputs depend on.
    """

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
        model: the module.
        parameters: those that the kernel is over, by name.
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

    model: nn.Module
    parameters: Mapping[str, nn.Parameter]
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
    index = few(batch_size(x))
    three = rows(x, index)
    passes = _forward(model, three)
    if not bool(torch.isfinite(passes.three.detach()).all()):
        raise ValueError(
            f"model returns NaN or infinity at {name}; its kernel is not defined there"
        )
    outputs = passes.three
    company = Company(model, x, index, name, outputs)
    company.compare(passes.two, [0, 1])
    if not outputs.requires_grad:
        raise ValueError(
            "model's outputs carry no gradient to its parameters: it detaches them or runs under "
            "torch.no_grad or inference_mode; pass a differentiable model"
        )
    wanted = list(parameters.values())
    edges: list[Any] = [record.output for record, _ in passes.records]
    # unequal weights: equal ones cancel where the outputs sum to a constant, as of a softmax
    weights = torch.linspace(0.5, 1.5, outputs.shape[1], dtype=outputs.dtype).to(outputs.device)
    first = (outputs[0] * weights).sum()
    grads = torch.autograd.grad(first, [*edges, *wanted], allow_unused=True, retain_graph=True)
    calls = [_located(*pair, grad) for pair, grad in zip(passes.records, grads, strict=False)]
    by_parameter = zip(wanted, grads[len(edges) :], strict=True)
    gradients = {
        id(p): g.to_dense() if g.is_sparse else g for p, g in by_parameter if g is not None
    }
    idle = [p for p in wanted if id(p) not in gradients]
    return Inspection(
        model=model,
        parameters=parameters,
        calls=calls,
        num_uses=_num_uses(outputs),
        three=three,
        shared=passes.shared,
        company=company,
        outputs=outputs.detach(),
        weights=weights,
        gradients=gradients,
        rarely_used=_used_by_any(model, x, idle, passes.saved_bytes) if idle else set(),
        saved_bytes=passes.saved_bytes,
        readout=_readout(calls, grads, weights),
    )


@dataclass
class _Passes:
    """What two and three examples show on their way forward.

    Attributes:
        shared: keys of the look-ups of which each example got a copy.
        two: the outputs (2, k) of two examples.
        three: those (3, k) of three, with their graph.
        records: the calls for three, each with that for two; None where they are not the same.
        saved_bytes: what an example keeps for the backward pass.
    """

    shared: frozenset[Any]
    two: Tensor
    three: Tensor
    records: list[tuple[Record, Record | None]]
    saved_bytes: int


def _forward(model: nn.Module, three: Batch) -> _Passes:
    """The passes, with a copy for each example of what is looked up once for all, if it can be."""
    passes = _passed(model, three, frozenset())
    # positions are such: without copies their table's gradient is not split by example
    shared = frozenset(
        long.rule.key
        for long, short in passes.records
        if long.rule.family == "lookup"
        and short is not None
        and short.rule.input.shape == long.rule.input.shape
        and (long.rule.input.ndim == 1 or len(long.rule.input) == 1)
    )
    if not shared:
        return passes
    try:
        spread = _passed(model, three, shared)
    except (RuntimeError, ValueError, TypeError):
        return passes
    return spread if close(spread.three, passes.three.detach()) else passes


def _passed(model: nn.Module, three: Batch, shared: frozenset[Any]) -> _Passes:
    with Recorder(shared, 2) as short:
        two = outputs_at(model, rows(three, slice(0, 2))).detach()
    saved: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with Recorder(shared, 3) as long, saved_tensors_hooks(note, lambda t: t):
        outputs = outputs_at(model, three)
    records: list[tuple[Record, Record | None]] = [(record, None) for record in long.records]
    if len(short.records) == len(long.records):
        records = [
            (record, twin if twin.rule.key == record.rule.key else None)
            for record, twin in zip(long.records, short.records, strict=True)
        ]
    return _Passes(shared, two, outputs, records, sum(saved.values()) // 3)


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
    """The call of ``record``, of three examples, with the axes that hold them."""
    rule = record.rule
    name = type(rule).__name__.removesuffix("Rule")
    if short is None:
        return Call(rule, reason="the model's calls depend on the size of the batch")
    input_axis = _axis(tuple(short.rule.input.shape), tuple(rule.input.shape))
    output_axis = _axis(short.output_shape, record.output_shape)
    if input_axis is None or output_axis is None:
        return Call(rule, reason="called once for all examples")
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


def _readout(calls: Sequence[Call], grads: Sequence[Tensor | None], weights: Tensor) -> int | None:
    """The last call of a matrix whose cotangent is that of the outputs, or in proportion to it."""
    for i, call in reversed(list(enumerate(calls))):
        grad = grads[i]
        if call.reason or grad is None or not isinstance(call.rule, LinearRule):
            continue
        if call.active != 1 or call.width != len(weights):
            continue
        cotangent = call.rule.cotangents(grad, call.output_axis)[0].sum(0).to(weights)
        unit = weights / weights.norm()
        if close(cotangent, (cotangent @ unit) * unit):
            return i
    return None


def close(first: Tensor, second: Tensor) -> bool:
    """Whether two passes agree up to rounding; batches of other sizes take other kernels."""
    if first.shape != second.shape or not second.numel():
        return first.shape == second.shape
    allowed = max(1e-4, 16 * torch.finfo(second.dtype).eps) * float(second.abs().max())
    return float((first - second).detach().abs().max()) <= allowed
