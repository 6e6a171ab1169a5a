"""One small forward and backward pass that shows how a model uses its parameters.

Two and then three examples go through the model. What changes size between the two passes is the
batch axis of each call's input and output, so a coincidence of sizes misleads nothing. A backward
pass from the first example alone then shows which rows of each call belong to it, and the
autograd graph how often each parameter is used: a use beyond the recorded calls means that the
model also reads the parameter in its own code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk._layers import BatchAxis, Layer, layer_of


@dataclass
class Record:
    """One call of a supported module: its input and the place of its output in the graph."""

    layer: Layer
    input: Tensor
    output: GradientEdge
    output_shape: tuple[int, ...]
    input_version: int


@contextmanager
def recording(model: nn.Module) -> Iterator[list[Record]]:
    """Record every differentiable call of a supported module, in order, while in the context."""
    records: list[Record] = []
    layers = {id(m): layer for m in model.modules() if (layer := layer_of(m)) is not None}

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        x = args[0] if args else kwargs.get("input", kwargs.get("x"))
        if isinstance(x, Tensor) and isinstance(output, Tensor) and output.requires_grad:
            # the edge, not the tensor: a later in-place operation, as of nn.ReLU(inplace=True),
            # changes the tensor's place in the graph
            edge = get_gradient_edge(output)
            shape = tuple(output.shape)
            records.append(Record(layers[id(module)], x.detach(), edge, shape, x._version))

    handles = [
        m.register_forward_hook(record, with_kwargs=True, prepend=True)
        for m in model.modules()
        if id(m) in layers
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Call:
    """A recorded call with its examples located; ``reason`` says why not, where they are not."""

    layer: Layer
    input_axis: BatchAxis = field(default_factory=lambda: BatchAxis(0))
    output_axis: BatchAxis = field(default_factory=lambda: BatchAxis(0))
    positions: int = 1
    active: int = 1
    features: int = 1
    width: int = 1
    reason: str = ""


@dataclass
class Probe:
    """What the small passes showed.

    Attributes:
        calls: the calls of supported modules, in order.
        num_uses: how often each parameter, by id, is used.
        outputs: (3, k).
        weights: (k,), of the outputs in ``gradients``.
        gradients: of the first example's weighted outputs, by parameter's id; none where the
            outputs do not depend on a parameter.
        saved_bytes: what an example's forward pass keeps for the backward pass.
    """

    calls: list[Call]
    num_uses: Counter[int]
    outputs: Tensor
    weights: Tensor
    gradients: dict[int, Tensor]
    saved_bytes: int

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.outputs.shape[1]


def probe(model: nn.Module, x: Tensor, parameters: Sequence[nn.Parameter]) -> Probe:
    """Pass three examples of ``x`` through ``model`` and say how it uses ``parameters``."""
    three = x[torch.arange(3, device=x.device) % len(x)]
    with recording(model) as short:
        outputs_short = _outputs(model, three[:2])
    saved: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with recording(model) as records, saved_tensors_hooks(note, lambda t: t):
        outputs = _outputs(model, three)
    _check_alone(outputs, outputs_short)
    edges: list[Any] = [r.output for r in records]
    weights = torch.linspace(0.5, 1.5, outputs.shape[1], dtype=outputs.dtype, device=x.device)
    grads: Sequence[Tensor | None] = [None] * (len(edges) + len(parameters))
    if outputs.requires_grad:
        first = (outputs[0] * weights).sum()
        grads = torch.autograd.grad(
            first, [*edges, *parameters], allow_unused=True, retain_graph=True
        )
    same = len(short) == len(records)
    calls = [_located(r, short[i] if same else None, grads[i]) for i, r in enumerate(records)]
    by_parameter = zip(parameters, grads[len(edges) :], strict=True)
    return Probe(
        calls=calls,
        num_uses=_num_uses(outputs),
        outputs=outputs.detach(),
        weights=weights,
        gradients={
            id(p): g.to_dense() if g.is_sparse else g for p, g in by_parameter if g is not None
        },
        saved_bytes=sum(saved.values()) // 3,
    )


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    try:
        outputs = model(x)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"model does not take x of shape {tuple(x.shape)} and {x.dtype}: {error}"
        ) from error
    return check_outputs(outputs, len(x))


def _check_alone(outputs: Tensor, without_last: Tensor) -> None:
    """Raise where the first two examples come out differently beside a third."""
    kept = outputs[:2].detach()
    allowed = max(1e-3, 16 * torch.finfo(kept.dtype).eps) * float(kept.abs().max())
    if not bool(torch.isfinite(kept).all()):
        raise ValueError("model returns NaN or infinity at x; its kernel is not defined there")
    if float((kept - without_last.detach()).abs().max()) > allowed:
        raise ValueError(
            "model's output for an example depends on the rest of its batch or on chance: the "
            "kernel of two examples is then not defined; switch such layers to evaluation mode"
        )


def _located(record: Record, short: Record | None, grad: Tensor | None) -> Call:
    """The call of ``record`` with the axes that hold its examples."""
    layer = record.layer
    name = type(layer.module).__name__
    if short is None or short.layer.module is not layer.module:
        return Call(layer, reason="the model's calls depend on the size of the batch")
    input_axis = _axis(tuple(short.input.shape), tuple(record.input.shape))
    output_axis = _axis(short.output_shape, record.output_shape)
    if input_axis is None or output_axis is None:
        return Call(layer, reason=f"a call of {name} has no batch axis")
    if grad is not None and output_axis.fold > 1:
        order = _folding(grad.movedim(output_axis.axis, 0), output_axis.fold)
        input_axis = BatchAxis(input_axis.axis, input_axis.fold, order)
        output_axis = BatchAxis(output_axis.axis, output_axis.fold, order)
    if not layer.accepts(tuple(record.input.shape), input_axis):
        return Call(layer, reason=f"{name} is called on an input that the rule does not cover")
    if grad is None:
        grad = record.input.new_zeros(record.output_shape)
    rows = layer.cotangents(grad, output_axis)
    if bool(rows[1:].any()):
        return Call(layer, reason=f"the rows of a call of {name} are not one example's each")
    inputs = layer.inputs(record.input, input_axis)
    active = int(rows[0].any(dim=1).sum())
    features = 1 if layer.family == "lookup" else inputs.shape[2]
    positions, width = rows.shape[1:]
    return Call(layer, input_axis, output_axis, positions, max(active, 1), features, width)


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
