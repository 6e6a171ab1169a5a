"""Which parameter of a model takes which path to the kernel, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Shaped
from torch import Tensor, nn

from grokscope.measures.inputs import check_batch, check_not_batch_dependent
from grokscope.measures.ntk._cost import Problem
from grokscope.measures.ntk._expand import ways_to_expand
from grokscope.measures.ntk._probe import Probe, probe
from grokscope.measures.ntk._state import differentiating, usable
from grokscope.measures.ntk._terms import (
    Term,
    description,
    obstacle,
    structured_terms,
    uses_by_parameter,
)

Reduction = Literal["full", "trace", "sum"]


@dataclass(frozen=True)
class ParameterPlan:
    """The path of one parameter.

    Attributes:
        path: "structured" through the calls of its modules, "expanded" with one copy for each
            example in the same pass, "generic" through its per-example Jacobian in a pass of its
            own, "unused" or "frozen" where it has no part in the kernel.
        how: what the path does, or why the parameter cannot take the structured one.
    """

    path: Literal["structured", "expanded", "generic", "unused", "frozen"]
    how: str


@dataclass(frozen=True)
class NTKPlan:
    """What ``empirical_ntk`` would do; ``print(plan)`` shows it as a table.

    Attributes:
        parameters: a ``ParameterPlan`` for every name; a tied weight goes by its first name.
        num_outputs: k.
    """

    parameters: dict[str, ParameterPlan]
    num_outputs: int

    def __str__(self) -> str:
        width = max((len(name) for name in self.parameters), default=0)
        rows = [f"{name:<{width}}  {p.path:<10}  {p.how}" for name, p in self.parameters.items()]
        return "\n".join(rows)


def ntk_plan(
    model: nn.Module,
    x: Shaped[Tensor, "n ..."],
    reduce: Reduction = "full",
    parameters: Sequence[str] | None = None,
) -> NTKPlan:
    """Which path every parameter of ``model`` takes to its kernel on ``x``.

    Args:
        model: a module that maps (n, ...) to (n, k) or (n,).
        x: (n, ...) examples, floating point or integer.
        reduce: as for ``empirical_ntk``; the cheaper order of contraction may depend on it.
        parameters: names to restrict the kernel to, as for ``empirical_ntk``.

    Returns:
        The plan: ``plan.parameters[name].path`` is "structured", "expanded", "generic",
        "unused" or "frozen", ``plan.parameters[name].how`` says how or why.

    Raises:
        TypeError, ValueError: as ``empirical_ntk`` does.

    Cost: one forward pass of two and one forward and backward pass of three examples.

    Example:
        >>> import torch, grokscope as gs
        >>> print(gs.ntk_plan(torch.nn.Linear(3, 2), torch.randn(5, 3)))
        weight  structured  Linear, inputs and cotangents kept apart
        bias    structured  Linear, inputs and cotangents kept apart
    """
    check_module(model)
    check_batch(x)
    check_not_batch_dependent(model)
    check_reduction(reduce)
    with differentiating(model):
        chosen = trainable(model, parameters)
        found = probe(model, usable(x), list(chosen.values()))
        rows = 1 if reduce == "sum" else found.num_outputs
        problem = Problem(len(x), len(x), rows, diagonal=reduce == "trace")
        plans = paths_and_terms(model, usable(x), chosen, found, problem)[0]
    for name, parameter in model.named_parameters() if parameters is None else ():
        if not parameter.requires_grad:
            plans[name] = ParameterPlan("frozen", "requires_grad is False")
    order = [name for name, _ in model.named_parameters() if name in plans]
    return NTKPlan({name: plans[name] for name in order}, found.num_outputs)


def check_module(model: nn.Module) -> None:
    """Raise unless ``model`` has parameters for a kernel to be over."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, whose parameters the kernel is over: got "
            f"{type(model).__name__}"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model has no trainable parameters; call .requires_grad_() on some")
    for name, module in model.named_modules():
        if getattr(module, "scale_grad_by_freq", False):
            raise ValueError(
                f"model has {type(module).__name__} with scale_grad_by_freq at {name!r}: what it "
                "returns for a gradient is none; set its scale_grad_by_freq to False"
            )


def check_reduction(reduce: object) -> None:
    """Raise unless ``reduce`` is one of the reductions."""
    if reduce not in get_args(Reduction):
        raise ValueError(f"reduce must be 'full', 'trace' or 'sum': got {reduce!r}")


def trainable(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """The parameters that the kernel is over, each once, by its first name."""
    first = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    if names is None:
        return {n: p for n, p in model.named_parameters() if p.requires_grad}
    if isinstance(names, str):
        raise TypeError(f"parameters must be a list of names: got the string {names!r}")
    every = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        if name not in every:
            raise ValueError(
                f"parameters names {name!r}, which the model does not have; "
                "dict(model.named_parameters()) lists what it has"
            )
        if not every[name].requires_grad:
            raise ValueError(
                f"parameters names {name!r}, which is frozen; call .requires_grad_() on it first"
            )
    if not names:
        raise ValueError("parameters is empty; name at least one, or pass None for all")
    return {first[id(every[name])]: every[name] for name in names}


def paths_and_terms(
    model: nn.Module, x: Tensor, chosen: dict[str, nn.Parameter], found: Probe, problem: Problem
) -> tuple[dict[str, ParameterPlan], list[Term]]:
    """The path of each of the ``chosen`` parameters, and the terms of the kernel over them."""
    uses = uses_by_parameter(found)
    plans: dict[str, ParameterPlan] = {}
    structured: dict[str, nn.Parameter] = {}
    for name, parameter in chosen.items():
        if id(parameter) not in found.gradients:
            plans[name] = ParameterPlan("unused", "the output does not depend on it")
        elif reason := obstacle(model, name, parameter, uses.get(id(parameter), []), found):
            plans[name] = ParameterPlan("generic", reason)
        else:
            structured[name] = parameter
    terms = structured_terms(structured, uses, found, problem)
    for term in terms:
        for name in term.names:
            plans[name] = ParameterPlan("structured", description(term, found))
    others = {name: chosen[name] for name, plan in plans.items() if plan.path == "generic"}
    ways = ways_to_expand(model, x, others, found)
    for name, parameter in others.items():
        if name in ways:
            plans[name] = ParameterPlan("expanded", "one copy for each example")
            terms.append(Term((name,), (parameter,), "expanded", way=ways[name]))
        else:
            terms.append(Term((name,), (parameter,), "generic"))
    return plans, terms
