"""Which parameter takes which path to the kernel, why, and what that costs.

The kernel is a sum of terms. What three examples show of a model decides which rule covers a
parameter; seconds are estimated from one pass of some examples and the count of multiplications.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, batch_size, leaves, map_leaves, rows
from grokscope.measures.company import outputs_at
from grokscope.measures.guard import undisturbed, without_wrappers
from grokscope.measures.inputs import (
    check_batch,
    check_not_batch_dependent,
    check_not_scripted,
    check_not_sharded,
    explained_refusals,
)
from grokscope.measures.local_map import full_precision
from grokscope.measures.norms import weights_in_buffers
from grokscope.measures.ntk.inspect import Inspection, inspected, ways_to_expand
from grokscope.measures.ntk.memory import at_once, readable
from grokscope.measures.ntk.readout import readout_of
from grokscope.measures.ntk.terms import (
    Problem,
    Term,
    contraction_cost,
    description,
    obstacle,
    structured_terms,
    uses_by_parameter,
)
from grokscope.shown import shown

Reduction = Literal["full", "trace", "sum"]
# examples of the pass that is timed, and the size of the product that the machine is timed by
_TIMED, _PRODUCT = 32, 256


@shown()
@dataclass(frozen=True)
class ParameterPlan:
    """The path of one parameter.

    Attributes:
        path: "structured" through the calls of its modules, "expanded" with one copy for each
            example in the same pass, "generic" through its per-example Jacobian in a pass of its
            own, "unused", "frozen" or "buffer" where it has no part in the kernel.
        how: what the path does, or why the parameter cannot take the structured one.
    """

    path: Literal["structured", "expanded", "generic", "unused", "frozen", "buffer"]
    how: str


@shown()
@dataclass(frozen=True, repr=False)
class NTKPlan:
    """What ``empirical_ntk`` would do; ``print(plan)`` shows it as a table, by groups.

    Attributes:
        parameters: a ``ParameterPlan`` for every name; a tied weight goes by its first name. Where
            a model keeps more numbers in floating-point buffers than in parameters, as a converted
            one does, they come last.
        num_outputs: k.
        seconds: about how long it would take here, without the check.
        num_bytes: about how much memory it would take, the kernel included.
    """

    parameters: dict[str, ParameterPlan]
    num_outputs: int
    seconds: float
    num_bytes: int

    def groups(self) -> list[tuple[list[str], ParameterPlan]]:
        """Names that differ in numbers only, as of layers that repeat, with the plan they share."""
        found: dict[tuple[str, ParameterPlan], list[str]] = {}
        for name, plan in self.parameters.items():
            found.setdefault((_pattern(name), plan), []).append(name)
        return [(names, plan) for (_, plan), names in found.items()]

    def _shown(self) -> dict[str, Any]:
        paths = [plan.path for plan in self.parameters.values()]
        counts = {path: paths.count(path) for path in dict.fromkeys(paths)}
        return {
            "parameters": ", ".join(f"{number} {path}" for path, number in counts.items()),
            "outputs": self.num_outputs,
            "seconds": self.seconds,
            "MB": self.num_bytes / 1e6,
        }

    def __str__(self) -> str:
        labels = {
            f"{_pattern(names[0])} ({len(names)})" if len(names) > 1 else names[0]: plan
            for names, plan in self.groups()
        }
        width = max((len(label) for label in labels), default=0)
        lines = [f"{label:<{width}}  {plan.path:<10}  {plan.how}" for label, plan in labels.items()]
        cost = f"about {self.seconds:.2g} s and {readable(self.num_bytes)}"
        return "\n".join([*lines, cost])


def _pattern(name: str) -> str:
    """A name with stars for its numbers."""
    return re.sub(r"\d+", "*", name)


@checked_arguments
def ntk_plan(
    model: nn.Module,
    x: Batch,
    reduce: Reduction = "full",
    parameters: Sequence[str] | None = None,
) -> NTKPlan:
    """Which path every parameter of ``model`` takes to its kernel on ``x``, and what that costs.

    Args:
        model: a module that maps a batch to (n, k) or (n,).
        x: a batch, as for ``empirical_ntk``.
        reduce: as for ``empirical_ntk``; the cheaper order of contraction may depend on it.
        parameters: names to restrict the kernel to, as for ``empirical_ntk``.

    Returns:
        The plan: ``plan.parameters[name].path`` is "structured", "expanded", "generic",
        "unused", "frozen" or "buffer", ``plan.parameters[name].how`` says how or why.

    Raises:
        TypeError: as for ``empirical_ntk``.
        ValueError: as for ``empirical_ntk``.

    Cost: one forward pass of two and one forward and backward pass of three examples, and of some
    thirty for the estimate of seconds.

    Example:
        >>> import torch, grokscope as gs
        >>> print(gs.ntk_plan(torch.nn.Linear(3, 2), torch.randn(5, 3)))
        weight  structured  Linear, inputs and cotangents kept apart
        bias    structured  Linear, inputs and cotangents kept apart
        about ... s and ... MB
    """
    check_module(model)
    check_batch(x)
    check_not_batch_dependent(model)
    check_reduction(reduce)
    plain: nn.Module = without_wrappers(model)
    with differentiating(plain, x):
        x = usable(x)
        chosen = trainable(plain, parameters)
        found = inspected(plain, x, chosen)
        n, k = batch_size(x), found.num_outputs
        readout = readout_of(found) if reduce == "trace" else None
        num_rows = 1 if reduce == "sum" else k if readout is None else len(readout.basis)
        problem = Problem(n, n, num_rows, diagonal=reduce == "trace")
        plans, terms = paths_and_terms(plain, chosen, found, problem)
        seconds = _seconds(plain, x, terms, chosen, problem)
    itemsize = found.dtype.itemsize
    result = n * n * (k * k if reduce == "full" else 1) * itemsize
    beyond = at_once(terms, problem.rows, n, found.saved_bytes, itemsize)
    for name, parameter in plain.named_parameters() if parameters is None else ():
        if not parameter.requires_grad:
            plans[name] = ParameterPlan("frozen", "requires_grad is False")
    ordered = {name: plans[name] for name, _ in plain.named_parameters() if name in plans}
    for name in weights_in_buffers(plain) if parameters is None else ():
        ordered[name] = ParameterPlan("buffer", "left out: if it is a weight, make it a parameter")
    return NTKPlan(ordered, k, seconds, result + beyond)


def _seconds(
    model: nn.Module,
    x: Batch,
    terms: Sequence[Term],
    chosen: dict[str, nn.Parameter],
    problem: Problem,
) -> float:
    """About how long the passes and the contraction take, from a pass and a product timed here."""
    timed = min(_TIMED, problem.n1)
    start = _clock(x)
    outputs = outputs_at(model, rows(x, slice(0, timed)))
    between = _clock(x)
    torch.autograd.grad(outputs.sum(), list(chosen.values()), allow_unused=True)
    backward = _clock(x) - between
    one_pass = between - start + problem.rows * backward
    # a pass that gives each example its own parameters costs about one more; single examples
    # cost a pass each, of a length that hardly depends on the batch
    several = 1 + sum(term.form == "generic" for term in terms)
    alone = problem.n1 * one_pass if any(term.form == "single" for term in terms) else 0.0
    factor = torch.ones(_PRODUCT, _PRODUCT, dtype=outputs.dtype, device=outputs.device)
    start = _clock(x)
    torch.mm(factor, factor)
    rate = _PRODUCT**3 / max(_clock(x) - start, 1e-9)
    contraction = sum(contraction_cost(term, problem) for term in terms) / 2
    return problem.n1 / timed * several * one_pass + alone + contraction / rate


def _clock(x: Batch) -> float:
    if next(iter(leaves(x).values())).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def differentiating(model: nn.Module, x: Batch) -> Iterator[None]:
    """Derivatives on, in the precision of the weights; the model is put back afterwards."""
    first = next(iter(leaves(x).values()))
    with (
        explained_refusals(),
        undisturbed(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        full_precision(first),
    ):
        yield


def usable(x: Batch) -> Batch:
    """``x`` without its graph, and outside of inference mode."""
    return map_leaves(lambda leaf: leaf.clone() if leaf.is_inference() else leaf.detach(), x)


def check_module(model: nn.Module) -> None:
    """Raise unless ``model`` has parameters for a kernel to be over."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, whose parameters the kernel is over: got "
            f"{type(model).__name__}"
        )
    if not any(p.requires_grad for p in model.parameters()):
        if buffers := weights_in_buffers(model):
            raise ValueError(
                f"model has no trainable parameters but {len(buffers)} floating-point buffers, "
                "where a converted model has its weights: make them parameters"
            )
        raise ValueError("model has no trainable parameters; call .requires_grad_() on some")
    check_not_scripted(model)
    check_not_sharded(
        model,
        "take the kernel of an unsharded copy, loaded from get_model_state_dict(model, "
        "options=StateDictOptions(full_state_dict=True))",
    )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_complex():
            raise ValueError(
                f"model has the complex parameter {name!r}, of which no kernel is taken: freeze "
                "it, or keep its real and imaginary parts as a real parameter"
            )
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
    model: nn.Module, chosen: Mapping[str, nn.Parameter], found: Inspection, problem: Problem
) -> tuple[dict[str, ParameterPlan], list[Term]]:
    """The path of each of the ``chosen`` parameters, and the terms of the kernel over them."""
    uses = uses_by_parameter(found)
    plans: dict[str, ParameterPlan] = {}
    structured: dict[str, nn.Parameter] = {}
    for name, parameter in chosen.items():
        if id(parameter) not in found.gradients and id(parameter) not in found.rarely_used:
            plans[name] = ParameterPlan("unused", "the output does not depend on it")
        elif reason := obstacle(model, name, parameter, uses.get(id(parameter), []), found):
            plans[name] = ParameterPlan("generic", reason)
        else:
            structured[name] = parameter
    terms = structured_terms(structured, uses, found, problem)
    for term in terms:
        for name in term.names:
            plans[name] = ParameterPlan("structured", description(term, model, found))
    others = {name: chosen[name] for name, plan in plans.items() if plan.path == "generic"}
    rare = {name: p for name, p in others.items() if id(p) in found.rarely_used}
    common = {name: p for name, p in others.items() if name not in rare}
    ways = ways_to_expand(model, common, found)
    for name, parameter in others.items():
        if name in ways:
            plans[name] = ParameterPlan("expanded", "one copy for each example")
            terms.append(Term((name,), (parameter,), "expanded", way=ways[name]))
        else:
            terms.append(Term((name,), (parameter,), "generic"))
    return plans, terms
