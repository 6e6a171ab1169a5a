"""From a batch to what the contraction needs of it, term by term.

One forward pass records the calls; one backward pass for every row of ``directions`` (r, k), the
combinations of the outputs that the kernel is between, gives the cotangents of all calls at once.
No gradient of a parameter is ever asked for, except of those that no rule covers: each example
gets its own copy of them, in the same pass where they broadcast, in a pass under ``vmap`` or one
example at a time where they do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from grokscope.measures.batches import Batch, batch_size, map_leaves, rows
from grokscope.measures.company import Company, outputs_at
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.ntk.contract import Explicit, Factored, Part
from grokscope.measures.ntk.inspect import Call, Inspection, Record, Recorder
from grokscope.measures.ntk.plan import Term, copies, outputs_with
from grokscope.measures.ntk.rules import Rule

# bytes kept for a backward pass up to which several rows go back at once, where it is not the
# numbers but the calls that cost, and how many rows are worth it
_TOGETHER, _LEAST_TOGETHER = 8_000_000, 4


class CallsChanged(RuntimeError):
    """The model made other calls than in the inspection.

    Attributes:
        parameters: ids of the parameters whose calls these are; None where that is not known.
    """

    def __init__(self, parameters: set[int] | None = None) -> None:
        super().__init__()
        self.parameters = parameters


@dataclass(frozen=True)
class Source:
    """Examples to capture, and the model that they go through.

    Attributes:
        found: what the inspection found of the model.
        x: the examples.
        company: the outputs that a few of them have among themselves.
        start: where in the batch of ``company`` the first of ``x`` stands.
    """

    found: Inspection
    x: Batch
    company: Company
    start: int = 0

    @property
    def model(self) -> nn.Module:
        """The module."""
        return self.found.model

    def examples(self, at: slice) -> Source:
        """Some of the examples."""
        return replace(self, x=rows(self.x, at), start=self.start + at.start)

    def __len__(self) -> int:
        return batch_size(self.x)


def captured(source: Source, terms: Sequence[Term], directions: Tensor, chunk: int) -> list[Part]:
    """What the contraction needs of the examples for each of ``terms``, ``chunk`` at a time."""
    n, dtype = len(source), source.found.dtype
    gradients = {
        t: _room_for_gradients(term, len(directions), n, directions, dtype)
        for t, term in enumerate(terms)
        if term.form != "factored"
    }
    apart: dict[int, Factored] = {}
    room: Room = {}
    for start in range(0, n, chunk):
        at = slice(start, min(start + chunk, n))
        some = source.examples(at)
        views = {t: part.of_examples(at) for t, part in gradients.items()}
        for form, write in (("generic", _by_copies), ("single", _one_by_one)):
            names = {t: terms[t].names[0] for t in views if terms[t].form == form}
            if names:
                write([views[t].e for t in names], some, list(names.values()), directions)
        for t, piece in _one_pass(some, terms, directions, views, room).items():
            # a batch in one chunk is kept as it is: only several need room to be put together in
            if len(piece.a) == n:
                apart[t] = piece
            else:
                apart.setdefault(t, piece.room_for(n)).fill(piece, at)
    return [apart[t].slimmed() if t in apart else gradients[t] for t in range(len(terms))]


def _room_for_gradients(
    term: Term, rows: int, count: int, like: Tensor, dtype: torch.dtype
) -> Explicit:
    """An unfilled part for every row's gradient of ``count`` examples."""
    if term.form != "explicit":
        return Explicit(like.new_empty(rows, count, term.numel, dtype=dtype))
    # one example's rows lie together, as the product that makes them gives them
    sizes = [parameter.numel() for parameter in term.parameters]
    made = [like.new_empty(count, rows, size, dtype=dtype).transpose(0, 1) for size in sizes]
    return Explicit(*made)


# By call, where the cotangents of a chunk are written: pages of memory that were asked for once.
Room = dict[int, Tensor]


def _one_pass(
    source: Source,
    terms: Sequence[Term],
    directions: Tensor,
    gradients: dict[int, Explicit],
    room: Room,
) -> dict[int, Factored]:
    """The factored parts of one chunk; its expanded and explicit ones go to ``gradients``."""
    leaves = {
        t: copies(terms[t].parameters[0], terms[t].way, len(source))
        for t in gradients
        if terms[t].form == "expanded"
    }
    if not leaves and not any(term.calls for term in terms):
        return {}
    outputs, calls = _recorded(source, terms, {terms[t].names[0]: e for t, e in leaves.items()})
    own = [(leaf, gradients[t].e) for t, leaf in leaves.items()]
    cotangents = _cotangents(outputs, calls, own, directions, source, room)
    apart = {}
    for t, term in enumerate(terms):
        if not term.calls:
            continue
        # of one term at a time: a convolution's patches take many times what its input takes
        dtype = source.found.dtype
        inputs = {i: _inputs(*calls[i], dtype, term) for i in term.calls if term.weight}
        if t in gradients:
            _write_gradients(gradients[t], term, calls, inputs, cotangents)
            continue
        g = [_unpadded(calls[i][1].rule, a, cotangents[i]) for i, a in inputs.items()]
        # further calls with the same weight count as further positions
        a = _joined(list(inputs.values()), 1)
        apart[t] = Factored(a, _joined(g, 2), term.bias, window=term.window)
    return apart


def _inputs(call: Call, record: Record, dtype: torch.dtype, term: Term) -> Tensor:
    if term.window is not None:
        return term.window.pixels(record.rule.input).to(dtype)
    a = record.rule.inputs(call.input_axis)
    return a.to(dtype) if a.is_floating_point() else a


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    return torch.cat(tensors, dim=dim) if len(tensors) > 1 else tensors[0]


Calls = dict[int, tuple[Call, Record]]


def _recorded(
    source: Source, terms: Sequence[Term], leaves: dict[str, Tensor]
) -> tuple[Tensor, Calls]:
    """The outputs (c, k), and the calls of the terms, which must be those of the inspection."""
    wanted = {id(p) for term in terms if term.calls for p in term.parameters}

    def key(rule: Rule) -> tuple[Any, ...]:
        kind, *ids = rule.key
        return kind, *(i if i in wanted else 0 for i in ids)

    def is_wanted(rule: Rule) -> bool:
        return not wanted.isdisjoint(rule.key[1:])

    with Recorder(source.found.shared, len(source)) as recorder:
        outputs = (
            outputs_with(source.model, leaves, source.x)
            if leaves
            else outputs_at(source.model, source.x)
        )
    source.company.check(outputs, source.start)
    before = [(i, call) for i, call in enumerate(source.found.calls) if is_wanted(call.rule)]
    records = [record for record in recorder.records if is_wanted(record.rule)]
    # calls of other operations may come and go, as those of the experts that no example takes
    if [key(c.rule) for _, c in before] != [key(r.rule) for r in records]:
        raise CallsChanged
    calls = {i: (c, r) for (i, c), r in zip(before, records, strict=True)}
    changed = {
        key
        for call, record in calls.values()
        # an expert that all of three examples take may be left out by others
        if record.spoilt or not _of_all(call, record, len(source))
        for key in record.rule.key[1:]
    }
    if changed:
        raise CallsChanged(changed)
    return outputs, calls


def _of_all(call: Call, record: Record, count: int) -> bool:
    """Whether a call has ``count`` examples where the inspection found them."""
    given, returned = record.rule.input.shape, record.output_shape
    return (
        given[call.input_axis.axis] == count * call.input_axis.fold
        and returned[call.output_axis.axis] == count * call.output_axis.fold
    )


def _cotangents(
    outputs: Tensor,
    calls: Calls,
    own: list[tuple[Tensor, Tensor]],
    directions: Tensor,
    source: Source,
    room: Room,
) -> dict[int, Tensor]:
    """For every call the cotangents (r, c, S, O), r the rows of ``directions``.

    ``own`` pairs the copies of expanded parameters with where to write their gradients.
    """
    sources: list[Any] = [record.output for _, record in calls.values()]
    sources += [leaf for leaf, _ in own]
    together = _TOGETHER // max(1, source.found.saved_bytes * len(source))
    by_call: dict[int, Tensor] = {}
    for at, grads in _backward(outputs, sources, directions, together):
        for (i, (call, record)), grad in zip(calls.items(), grads, strict=False):
            if grad is None:
                grad = outputs.new_zeros(at.stop - at.start, *record.output_shape)
            g = _split(record.rule, grad, call).to(source.found.dtype)
            if len(g) == len(directions):
                by_call[i] = g
                continue
            if i not in by_call:
                by_call[i] = _room_for_rows(room, i, g[0], len(directions))
            by_call[i][at] = g
        for (leaf, out), grad in zip(own, grads[len(calls) :], strict=True):
            out[at] = 0 if grad is None else grad.reshape(len(grad), len(leaf), -1)
    return by_call


def _split(rule: Rule, grad: Tensor, call: Call) -> Tensor:
    """Cotangents (r, c, S, O) of gradients (r, ...) by a call's output."""
    if len(grad) == 1:
        return rule.cotangents(grad[0], call.output_axis).unsqueeze(0)
    return vmap(lambda each: rule.cotangents(each, call.output_axis))(grad)


def _backward(
    outputs: Tensor, sources: list[Any], directions: Tensor, together: int
) -> Iterator[tuple[slice, list[Tensor | None]]]:
    """The gradients of rows of ``directions``, ``together`` in a pass where PyTorch can do that."""
    start, total = 0, len(directions)
    together = together if together >= _LEAST_TOGETHER else 1
    while start < total:
        at = slice(start, min(start + together, total))
        # the same direction for every example: their gradients do not mix, which `company` has
        # checked, so one pass serves the whole batch
        cotangent = directions[at].unsqueeze(1).expand(-1, *outputs.shape)
        batched = len(cotangent) > 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of what vmap only loops over
                grads = torch.autograd.grad(
                    outputs,
                    sources,
                    cotangent if batched else cotangent[0],
                    retain_graph=batched or at.stop < total,
                    allow_unused=True,
                    is_grads_batched=batched,
                )
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            if not batched:
                raise
            together = 1
            continue
        yield at, [g if batched or g is None else g.unsqueeze(0) for g in grads]
        start = at.stop


def _room_for_rows(room: Room, call: int, g: Tensor, rows: int) -> Tensor:
    """Room for ``rows`` tensors like ``g`` (c, S, O), in the order of memory that g has.

    The room of an earlier chunk serves again: what it held is read by then.
    """
    count, positions, width = g.shape
    known = room.get(call)
    if known is None or known.shape[1] < count or known.shape[2:] != g.shape[1:]:
        if g.stride(2) == 1:
            known = g.new_empty(rows, *g.shape)
        else:
            # one example's rows lie together: one matrix with the positions as columns
            known = g.new_empty(count, rows, width, positions).permute(1, 0, 3, 2)
        room[call] = known
    return known[:, :count]


def _write_gradients(
    out: Explicit,
    term: Term,
    calls: Calls,
    inputs: Mapping[int, Tensor],
    cotangents: Mapping[int, Tensor],
) -> None:
    """Write every row's gradient of a term to ``out``, of the weight and of the bias."""
    for number, i in enumerate(term.calls):
        if term.weight:
            _write_weight(out.e, number, term, calls[i][1].rule, inputs[i], cotangents[i])
        if term.bias:
            bias = cotangents[i].sum(2)
            place = out.e if out.bias is None else out.bias
            place.copy_(bias) if number == 0 else place.add_(bias)


def _write_weight(out: Tensor, number: int, term: Term, rule: Rule, a: Tensor, g: Tensor) -> None:
    """Write to ``out`` (r, c, p), or add to it, the gradient summed over the positions of a call.

    In which order it holds the weight's entries does not matter to a kernel, as long as all calls
    of the weight agree: so a weight that is kept as (I, O) is written as (O, I) too.
    """
    rows, count, positions, width = g.shape
    if rule.family == "outer" and rule.groups == 1:
        # (c, r O, S) times (c, S, I), straight to its place
        left = g.permute(1, 0, 3, 2).reshape(count, rows * width, positions)
        place = out.transpose(0, 1).view(count, rows * width, -1)
        torch.bmm(left, a, out=place) if number == 0 else place.baddbmm_(left, a)
        return
    weight = _weight_gradient(term, rule, a, g)
    place = out.unflatten(2, weight.shape[2:])
    place.copy_(weight) if number == 0 else place.add_(weight)


def _weight_gradient(term: Term, rule: Rule, a: Tensor, g: Tensor) -> Tensor:
    """(r, c, *p): every row's gradient of a weight that is no plain matrix."""
    rows, count, positions, width = g.shape
    if rule.family == "scale":
        return (g * a).sum(2)
    if rule.family == "lookup":
        table = g.new_zeros(rows, count, *term.parameters[0].shape)
        index = a[None, :, :, None].expand(rows, count, positions, width)
        return table.scatter_add_(2, index, _unpadded(rule, a, g))
    groups = rule.groups
    # (c groups, r out, S) times (c groups, S, in); the groups' blocks of outputs lie in order
    left = g.unflatten(3, (groups, -1)).permute(1, 3, 0, 4, 2)
    left = left.reshape(count * groups, -1, positions)
    right = a.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)
    product = torch.bmm(left, right)
    return product.view(count, groups, rows, -1, product.shape[2]).permute(2, 0, 1, 3, 4)


def _unpadded(rule: Rule, tokens: Tensor, g: Tensor) -> Tensor:
    """``g`` without the positions of an embedding's padding token, which is never trained."""
    return g if rule.padding is None else g * (tokens != rule.padding).unsqueeze(-1)


def _by_copies(
    outs: Sequence[Tensor], source: Source, names: Sequence[str], directions: Tensor
) -> None:
    """Write the gradients of combinations of the outputs to ``outs``, (r, c, p) per parameter.

    Every example gets its own copy of the parameters under ``vmap``, so that one backward pass
    serves the whole batch. A model that ``vmap`` does not support is run example by example.
    """
    parameters = [source.model.get_parameter(name).detach() for name in names]
    # expanded, not copied: autograd gives each row its gradient although all share one memory
    leaves = [p.expand(len(source), *p.shape).requires_grad_() for p in parameters]

    def outputs_of_one(own: list[Tensor], example: Batch) -> Tensor:
        alone = map_leaves(lambda leaf: leaf.unsqueeze(0), example)
        return outputs_with(source.model, dict(zip(names, own, strict=True)), alone)[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of operations that vmap only loops over
            outputs = vmap(outputs_of_one)(leaves, source.x)
        source.company.check(outputs, source.start)
        _write_rows(outs, outputs, leaves, directions)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        _one_by_one(outs, source, names, directions)


def _one_by_one(
    outs: Sequence[Tensor], source: Source, names: Sequence[str], directions: Tensor
) -> None:
    """The same one example at a time, by plain backward passes."""
    parameters = [source.model.get_parameter(name) for name in names]
    for i in range(len(source)):
        one = slice(i, i + 1)
        outputs = outputs_at(source.model, rows(source.x, one))
        source.company.check(outputs, source.start + i)
        _write_rows([out[:, one] for out in outs], outputs, parameters, directions)


def _write_rows(
    outs: Sequence[Tensor], outputs: Tensor, leaves: Sequence[Tensor], directions: Tensor
) -> None:
    """Write to ``outs`` (r, c, p) the gradients of every combination of ``outputs`` (c, k)."""
    for r, direction in enumerate(directions):
        more = r < len(directions) - 1
        grads = gradients_or_zeros(outputs, leaves, direction.expand_as(outputs), retain_graph=more)
        for out, grad in zip(outs, grads, strict=True):
            out[r] = (grad.to_dense() if grad.is_sparse else grad).reshape(out[r].shape)


def pushing_forward(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], x: Batch
) -> tuple[Tensor, Callable[[Mapping[str, Tensor]], Tensor]]:
    """The outputs (n, k), and a function of a tangent u, by parameter, that gives ``J u`` (n, k).

    It is the derivative of ``<J^T w, u>`` in w.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel with a second derivative
        outputs = outputs_at(model, x)
        # J^T w is linear in w, so where w stands does not matter: zeros will do (the
        # double-backward trick; forward mode would need a rule for every operation of the model)
        w = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, list(parameters.values()), w, create_graph=True, allow_unused=True
        )
    grads = {
        name: grad
        for name, grad in zip(parameters, pulled, strict=True)
        if grad is not None and grad.requires_grad
    }

    def push(tangents: Mapping[str, Tensor]) -> Tensor:
        if not grads:
            return torch.zeros_like(outputs)
        values = [tangents[name] for name in grads]
        return gradients_or_zeros(list(grads.values()), [w], values, retain_graph=True)[0]

    return outputs.detach(), push
