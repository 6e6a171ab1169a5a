"""The terms that a kernel is the sum of, one for each weight and its bias, and their costs.

A structured term can be contracted from inputs and cotangents, or from every example's gradient;
the cheaper order is found by counting multiplications (Novak et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from grokscope.measures.ntk.inspect import Inspection

Form = Literal["factored", "explicit", "scale", "expanded", "generic", "single"]
# what one pass over a matrix costs in multiply-adds
_PASS = 16


@dataclass
class Term:
    """Parameters whose part of the kernel is computed together: a weight and its bias, mostly.

    Attributes:
        names: the parameters covered.
        form: "factored" keeps inputs and cotangents apart, "explicit" forms each example's
            gradient, "scale" does so for elementwise weights; "expanded" gives every example its
            copy of a parameter in the same pass, "generic" in a pass of its own, "single" runs
            one example at a time.
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


@dataclass(frozen=True)
class Problem:
    """The sizes that decide between contraction orders: n1, n2 and rows per example."""

    n1: int
    n2: int
    rows: int
    diagonal: bool


def factored_cost(positions: int, features: int, outputs: int, problem: Problem) -> float:
    """Multiplications to contract inputs and cotangents (structured derivatives).

    Novak et al. (2022), section 3: the Gram matrix of the inputs over pairs of positions, then
    its product with the cotangents of one side, then the inner products with the other's. For
    one row per example the Gram matrix of the cotangents comes cheaper.
    """
    pairs, rows = problem.n1 * problem.n2, problem.rows
    gram = pairs * positions**2 * features
    if problem.diagonal or rows == 1:
        return gram + pairs * positions**2 * (rows * outputs + _PASS)
    if positions == 1:
        return gram + pairs * rows**2 * (outputs + _PASS)
    spread = pairs * rows * positions * outputs * (positions + _PASS)
    return gram + spread + pairs * rows**2 * positions * outputs


def explicit_cost(positions: int, numel: int, problem: Problem) -> float:
    """Multiplications to form every example's gradient and contract those."""
    formed = (problem.n1 + problem.n2) * problem.rows * (positions * numel + _PASS * numel)
    pairs = problem.n1 * problem.n2
    return formed + pairs * problem.rows * numel * (1 if problem.diagonal else problem.rows)


def contraction_cost(term: Term, problem: Problem) -> float:
    """Multiplications of one term."""
    if term.form == "factored":
        return factored_cost(term.positions, term.features, term.width, problem)
    return explicit_cost(term.positions, term.numel, problem)


def uses_by_parameter(found: Inspection) -> dict[int, list[tuple[int, str]]]:
    """For every parameter, by id, the calls that use it and as what."""
    uses: dict[int, list[tuple[int, str]]] = {}
    for index, call in enumerate(found.calls):
        for role, tensor in (("weight", call.rule.weight), ("bias", call.rule.bias)):
            if isinstance(tensor, nn.Parameter):
                uses.setdefault(id(tensor), []).append((index, role))
    return uses


def obstacle(
    model: nn.Module,
    name: str,
    parameter: nn.Parameter,
    uses: Sequence[tuple[int, str]],
    found: Inspection,
) -> str:
    """Why ``parameter`` cannot take the structured path; empty if it can."""
    if id(parameter) in found.rarely_used:
        return "only some examples have a gradient of it"
    if not uses:
        owner = model.get_submodule(name.rpartition(".")[0])
        return f"no rule for the way {type(owner).__name__} uses it"
    if found.num_uses[id(parameter)] != len(uses):
        return "used outside the calls that there are rules for as well"
    for index, _ in uses:
        if found.calls[index].reason:
            return found.calls[index].reason
    if len({role for _, role in uses}) > 1:
        return "used both as a weight and as a bias"
    if len({found.calls[index].rule.transposed for index, _ in uses}) > 1:
        return "used both as it is and transposed"
    return ""


def structured_terms(
    structured: dict[str, nn.Parameter],
    uses: dict[int, list[tuple[int, str]]],
    found: Inspection,
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
    calls: tuple[int, ...], parameter: nn.Parameter, found: Inspection, problem: Problem
) -> Form:
    """The cheaper order of contraction for a weight used by ``calls``."""
    rules = [found.calls[i].rule for i in calls]
    positions, features, width = _sizes(calls, found)
    families = {rule.family for rule in rules}
    if families == {"scale"}:
        return "scale"
    if len(families) > 1 or any(rule.groups > 1 for rule in rules):
        return "explicit"
    active = sum(found.calls[i].active for i in calls)
    factored = factored_cost(active, features, width, problem)
    explicit = explicit_cost(positions, parameter.numel(), problem)
    return "factored" if factored <= explicit else "explicit"


def _sizes(calls: tuple[int, ...], found: Inspection) -> tuple[int, int, int]:
    """S, I and O over all of ``calls``."""
    chosen = [found.calls[i] for i in calls]
    features, width = max(c.features for c in chosen), max(c.width for c in chosen)
    return sum(c.positions for c in chosen), features, width


def description(term: Term, model: nn.Module, found: Inspection) -> str:
    """How ``term`` is computed, in words."""
    owners = [model.get_submodule(name.rpartition(".")[0]) for name in term.names]
    name = "/".join(dict.fromkeys(type(owner).__name__ for owner in owners))
    times = f", {len(term.calls)} calls" if len(term.calls) > 1 else ""
    positions = sum(found.calls[i].positions for i in term.calls)
    places = f" at {positions} positions" if positions > 1 else ""
    how = {
        "factored": "inputs and cotangents kept apart",
        "explicit": "each example's gradient formed",
        "scale": "each example's gradient formed",
    }[term.form]
    return f"{name}{times}{places}, {how}"
