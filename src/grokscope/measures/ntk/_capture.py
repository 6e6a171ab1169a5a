"""From a batch to what the contraction needs of it, term by term.

One forward pass records the calls; one backward pass for every row of ``directions`` (r, k), the
combinations of the outputs that the kernel is between, gives the cotangents of all calls at once.
No gradient of a parameter is ever asked for, except on the generic path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk._expand import copies
from grokscope.measures.ntk._generic import write_jacobian_rows
from grokscope.measures.ntk._parts import Explicit, Factored, Part, factored, write_gradients
from grokscope.measures.ntk._probe import Call, Probe, Record, recording
from grokscope.measures.ntk._terms import Term


class CallsChanged(RuntimeError):
    """The model made other calls than in the probe."""


def captured(
    model: nn.Module,
    found: Probe,
    terms: Sequence[Term],
    x: Tensor,
    directions: Tensor,
    chunk: int,
) -> list[Part]:
    """What the contraction needs of ``x`` for each of ``terms``, computed ``chunk`` at a time."""
    gradients = {
        t: directions.new_empty(len(directions), len(x), term.numel)
        for t, term in enumerate(terms)
        if term.form != "factored"
    }
    apart: dict[int, Factored] = {}
    for start in range(0, len(x), chunk):
        at = slice(start, min(start + chunk, len(x)))
        views = {t: e[:, at] for t, e in gradients.items()}
        pieces = _one_pass(model, found, terms, x[at], directions, views)
        for t, piece in pieces.items():
            if len(piece.a) == len(x):
                apart[t] = piece
            else:
                apart.setdefault(t, piece.room_for(len(x))).fill(piece, at)
    return [apart[t].slimmed() if t in apart else Explicit(gradients[t]) for t in range(len(terms))]


def _one_pass(
    model: nn.Module,
    found: Probe,
    terms: Sequence[Term],
    x: Tensor,
    directions: Tensor,
    gradients: dict[int, Tensor],
) -> dict[int, Factored]:
    """Write the explicit terms' ``gradients`` of one chunk and return its factored parts."""
    generic = {t: terms[t].names[0] for t in gradients if terms[t].form == "generic"}
    if generic:
        outs = [gradients[t] for t in generic]
        write_jacobian_rows(outs, model, list(generic.values()), x, directions)
    leaves = {
        t: copies(terms[t].parameters[0], terms[t].way, len(x))
        for t in gradients
        if terms[t].form == "expanded"
    }
    needed = sorted({i for term in terms for i in term.calls})
    if not needed and not leaves:
        return {}
    outputs, records = _recorded(
        model, found, x, {terms[t].names[0]: leaf for t, leaf in leaves.items()}
    )
    calls = {i: (found.calls[i], records[i]) for i in needed}
    own = [(leaf, gradients[t]) for t, leaf in leaves.items()]
    cotangents = _cotangents(outputs, calls, own, directions)
    apart = {}
    for t, term in enumerate(terms):
        if not term.calls:
            continue
        inputs = {
            i: call.layer.inputs(record.input, call.input_axis)
            for i, (call, record) in calls.items()
            if term.weight and i in term.calls
        }
        if t in gradients:
            write_gradients(gradients[t], term, found.calls, inputs, cotangents)
        else:
            apart[t] = factored(term, found.calls, inputs, cotangents)
    return apart


def _recorded(
    model: nn.Module, found: Probe, x: Tensor, leaves: dict[str, Tensor]
) -> tuple[Tensor, list[Record]]:
    """The outputs (c, k) of ``x`` and the calls made, which must be those of the probe."""
    with recording(model) as records:
        outputs = functional_call(model, leaves, (x,)) if leaves else model(x)
        outputs = check_outputs(outputs, len(x))
    same = len(records) == len(found.calls) and all(
        r.layer.module is c.layer.module for r, c in zip(records, found.calls, strict=True)
    )
    if not same or any(r.input._version != r.input_version for r in records):
        raise CallsChanged
    return outputs, records


def _cotangents(
    outputs: Tensor,
    calls: dict[int, tuple[Call, Record]],
    own: list[tuple[Tensor, Tensor]],
    directions: Tensor,
) -> dict[int, Tensor]:
    """For every call the cotangents (r, c, S, O), r the rows of ``directions``.

    ``own`` pairs the copies of expanded parameters with where to write their gradients.
    """
    sources: list[Any] = [record.output for _, record in calls.values()]
    sources += [leaf for leaf, _ in own]
    by_call: dict[int, Tensor] = {}
    for row, direction in enumerate(directions):
        grads = torch.autograd.grad(
            outputs,
            sources,
            direction.expand_as(outputs),
            retain_graph=row < len(directions) - 1,
            allow_unused=True,
        )
        for (i, (call, record)), grad in zip(calls.items(), grads, strict=False):
            if grad is None:
                grad = outputs.new_zeros(record.output_shape)
            g = call.layer.cotangents(grad, call.output_axis)
            if len(directions) == 1:
                by_call[i] = g.unsqueeze(0)
                continue
            if i not in by_call:
                by_call[i] = _room_for_rows(g, len(directions))
            by_call[i][row] = g
        for (leaf, out), grad in zip(own, grads[len(calls) :], strict=True):
            out[row] = 0 if grad is None else grad.reshape(len(leaf), -1)
    return by_call


def _room_for_rows(g: Tensor, rows: int) -> Tensor:
    """Room for ``rows`` tensors like ``g`` (c, S, O), in the order of memory that g has."""
    if g.stride(2) == 1:
        return g.new_empty(rows, *g.shape)
    count, positions, width = g.shape
    # one example's rows lie together: so they are one matrix with the positions as columns
    return g.new_empty(count, rows, width, positions).permute(1, 0, 3, 2)
