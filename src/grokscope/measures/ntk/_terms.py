"""The terms that a kernel is the sum of, one for each weight, and how each is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from grokscope.measures.ntk._cost import Problem, explicit_cost, factored_cost
from grokscope.measures.ntk._probe import Probe

Form = Literal["factored", "explicit", "scale", "expanded", "generic"]


@dataclass
class Term:
    """Parameters whose part of the kernel is computed together: a weight and its bias, mostly.

    Attributes:
        names: the parameters covered.
        form: "factored" keeps inputs and cotangents apart, "explicit" forms each example's
            gradient, "scale" does so for elementwise weights; "expanded" gives every example its
            copy of a parameter in the same pass, "generic" in a pass of its own.
        calls: where in the sequence of recorded calls the parameters are used.
        weight, bias: which of the two are covered.
        positions, features, width: S, I and O of a structured term, over all its calls.
        way: how an expanded parameter is copied.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    form: Form
    calls: tuple[int, ...] = ()
    weight: bool = True
    bias: bool = False
    positions: int = 1
    features: int = 1
    width: int = 1
    way: int = 0

    @property
    def numel(self) -> int:
        """Number of scalar parameters."""
        return sum(p.numel() for p in self.parameters)


def uses_by_parameter(found: Probe) -> dict[int, list[tuple[int, str]]]:
    """For every parameter, by id, the calls that use it and as what."""
    uses: dict[int, list[tuple[int, str]]] = {}
    for index, call in enumerate(found.calls):
        # what a parametrization or a weight norm computes is no parameter and is not found here
        for role, parameter in call.layer.module._parameters.items():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append((index, role))
    return uses


def obstacle(
    model: nn.Module,
    name: str,
    parameter: nn.Parameter,
    uses: list[tuple[int, str]],
    found: Probe,
) -> str:
    """Why ``parameter`` cannot take the structured path; empty if it can."""
    if not uses:
        owner = model.get_submodule(name.rpartition(".")[0])
        return f"no rule for the way {type(owner).__name__} uses it"
    if found.num_uses[id(parameter)] != len(uses):
        return "used outside the calls of its module as well"
    for index, _ in uses:
        if found.calls[index].reason:
            return found.calls[index].reason
    if len({role for _, role in uses}) > 1:
        return "used both as a weight and as a bias"
    return ""


def structured_terms(
    structured: dict[str, nn.Parameter],
    uses: dict[int, list[tuple[int, str]]],
    found: Probe,
    problem: Problem,
) -> list[Term]:
    """One term for every weight, joined by its bias where both are used by the same calls."""
    terms: dict[tuple[int, ...], Term] = {}
    biases = []
    for name, parameter in structured.items():
        calls = tuple(index for index, _ in uses[id(parameter)])
        if uses[id(parameter)][0][1] == "bias":
            biases.append((name, parameter, calls))
            continue
        form = _weight_form(calls, parameter, found, problem)
        terms[calls] = Term((name,), (parameter,), form, calls, True, False, *_sizes(calls, found))
    alone = []
    for name, parameter, calls in biases:
        term = terms.get(calls)
        if term is None or term.form == "scale":
            sizes = _sizes(calls, found)
            alone.append(Term((name,), (parameter,), "scale", calls, False, True, *sizes))
        else:
            term.names, term.parameters = (*term.names, name), (*term.parameters, parameter)
            term.bias = True
    return [*terms.values(), *alone]


def _weight_form(
    calls: tuple[int, ...], parameter: nn.Parameter, found: Probe, problem: Problem
) -> Form:
    """The cheaper order of contraction for a weight used by ``calls``."""
    layers = [found.calls[i].layer for i in calls]
    positions, features, width = _sizes(calls, found)
    families = {layer.family for layer in layers}
    if families == {"scale"}:
        return "scale"
    if len(families) > 1 or any(layer.groups > 1 for layer in layers):
        return "explicit"
    active = sum(found.calls[i].active for i in calls)
    factored = factored_cost(active, features, width, problem)
    explicit = explicit_cost(positions, parameter.numel(), problem)
    return "factored" if factored <= explicit else "explicit"


def _sizes(calls: tuple[int, ...], found: Probe) -> tuple[int, int, int]:
    """S, I and O over all of ``calls``."""
    chosen = [found.calls[i] for i in calls]
    features, width = max(c.features for c in chosen), max(c.width for c in chosen)
    return sum(c.positions for c in chosen), features, width


def description(term: Term, found: Probe) -> str:
    """How ``term`` is computed, in words."""
    kinds = [type(found.calls[i].layer.module).__name__ for i in term.calls]
    name = "/".join(dict.fromkeys(kinds))
    times = f", {len(term.calls)} calls" if len(term.calls) > 1 else ""
    positions = sum(found.calls[i].positions for i in term.calls)
    places = f" at {positions} positions" if positions > 1 else ""
    how = {
        "factored": "inputs and cotangents kept apart",
        "explicit": "each example's gradient formed",
        "scale": "each example's gradient formed",
    }[term.form]
    return f"{name}{times}{places}, {how}"
