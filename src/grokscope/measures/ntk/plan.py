"""Which parameter takes which path to the kernel, why, and what that costs.

The kernel is a sum of terms, mostly one for each weight and its bias. What three examples show of a
model decides which rule covers a parameter. A structured term can be contracted from inputs and
cotangents, or from every example's gradient; the cheaper order is found by counting multiplications
(Novak et al. 2022, section 3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk.inspect import Inspection, close
from grokscope.measures.ntk.window import Window
from grokscope.measures.view import outputs_of
from grokscope.shown import shown

Form = Literal["factored", "explicit", "scale", "expanded", "generic", "single"]
# what one pass over a matrix costs in multiply-adds
_PASS = 16
# a copy's own leading axis of one stands for the batch; or that many axes follow the batch axis
_LEADING = -1
_WAYS = (_LEADING, 0, 1, 2)


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


def readable(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _pattern(name: str) -> str:
    """A name with stars for its numbers."""
    return re.sub(r"\d+", "*", name)


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
        window: of a convolution whose inputs are kept as pixels, where patches would cost more.
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
    window: Window | None = None
    way: int = 0

    @property
    def numel(self) -> int:
        """Number of scalar parameters."""
        return sum(p.numel() for p in self.parameters)

    @property
    def slower(self) -> list[Term]:
        """A term for each parameter on the next slower path; none after the last."""
        form: Form = "single" if self.form == "generic" else "generic"
        pairs = zip(self.names, self.parameters, strict=True)
        return [Term((n,), (p,), form) for n, p in pairs] if self.form != "single" else []

    def held_bytes(self, rows: int, itemsize: int) -> int:
        """Bytes that one example's part takes."""
        if self.form == "factored":
            inputs = self.positions * self.features
            if self.window is not None:
                inputs = self.window.num_pixels * self.window.channels
            return (inputs + rows * self.positions * self.width) * itemsize
        return rows * self.numel * itemsize

    def passing_bytes(self, rows: int, itemsize: int) -> int:
        """Bytes that one example takes on the way to its part."""
        cotangents = rows * self.positions * self.width
        if self.form in ("generic", "single", "expanded"):
            return (rows + 3) * self.numel * itemsize
        if self.form == "explicit":
            return (2 * cotangents + self.positions * self.features + rows * self.numel) * itemsize
        return 2 * cotangents * itemsize


@dataclass(frozen=True)
class Problem:
    """The sizes that decide between contraction orders: n1, n2 and rows per example."""

    n1: int
    n2: int
    rows: int
    diagonal: bool


def _gram_cost(positions: int, features: int, window: Window | None) -> int:
    """Multiplications for the inner products of two examples' inputs."""
    if window is None:
        return positions**2 * features
    return window.num_pixels**2 * (window.channels + _PASS * window.num_passes)


def _factored_cost(
    positions: int, features: int, outputs: int, window: Window | None, problem: Problem
) -> float:
    """Multiplications to contract inputs and cotangents (structured derivatives).

    Novak et al. (2022), section 3: the Gram matrix of the inputs over pairs of positions, then
    its product with the cotangents of one side, then the inner products with the other's. For
    one row per example the Gram matrix of the cotangents comes cheaper.
    """
    pairs, rows = problem.n1 * problem.n2, problem.rows
    # _PASS stands for each pass over numbers in memory beside the multiplications: at small widths
    # it is the passes that cost
    gram = pairs * _gram_cost(positions, features, window)
    if problem.diagonal or rows == 1:
        return gram + pairs * positions**2 * (rows * outputs + _PASS)
    # one position: the Gram matrix is a number for each pair, so the cotangents' own products are
    # met with it directly and nothing is spread
    if positions == 1:
        return gram + pairs * rows**2 * (outputs + _PASS)
    spread = pairs * rows * positions * outputs * (positions + _PASS)
    return gram + spread + pairs * rows**2 * positions * outputs


def _explicit_cost(positions: int, numel: int, problem: Problem) -> float:
    """Multiplications to form every example's gradient and contract those."""
    # positions count here once for each example, where the factored order pays for their square at
    # every pair: so this wins for many positions of few parameters, as in early convolutions
    formed = (problem.n1 + problem.n2) * problem.rows * (positions * numel + _PASS * numel)
    pairs = problem.n1 * problem.n2
    return formed + pairs * problem.rows * numel * (1 if problem.diagonal else problem.rows)


def contraction_cost(term: Term, problem: Problem) -> float:
    """Multiplications of one term."""
    if term.form == "factored":
        sizes = term.positions, term.features, term.width
        return _factored_cost(*sizes, term.window, problem)
    return _explicit_cost(term.positions, term.numel, problem)


def trainable(
    model: nn.Module, names: Sequence[str] | None, wrapped: nn.Module
) -> dict[str, nn.Parameter]:
    """The parameters that the kernel is over, each once; ``names`` may be those of a wrapper."""
    first = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    if names is None:
        return {n: p for n, p in model.named_parameters() if p.requires_grad}
    every = {n: p for m in (wrapped, model) for n, p in m.named_parameters(remove_duplicate=False)}
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
    found: Inspection, problem: Problem
) -> tuple[dict[str, ParameterPlan], list[Term]]:
    """The path of each parameter, and the terms of the kernel over them."""
    chosen = found.parameters
    uses: dict[int, list[tuple[int, str]]] = {}
    for index, call in enumerate(found.calls):
        for role, tensor in (("weight", call.rule.weight), ("bias", call.rule.bias)):
            if isinstance(tensor, nn.Parameter):
                uses.setdefault(id(tensor), []).append((index, role))
    plans: dict[str, ParameterPlan] = {}
    structured: dict[str, nn.Parameter] = {}
    for name, parameter in chosen.items():
        known = id(parameter) in found.gradients or id(parameter) in found.rarely_used
        if not known or not parameter.numel():
            plans[name] = ParameterPlan("unused", "the output does not depend on it")
        elif reason := _obstacle(name, parameter, uses.get(id(parameter), []), found):
            plans[name] = ParameterPlan("generic", reason)
        else:
            structured[name] = parameter
    terms = _structured_terms(structured, uses, found, problem)
    for term in terms:
        for name in term.names:
            plans[name] = ParameterPlan("structured", _description(term, found))
    others = {name: chosen[name] for name, plan in plans.items() if plan.path == "generic"}
    rare = {name: p for name, p in others.items() if id(p) in found.rarely_used}
    common = {name: p for name, p in others.items() if name not in rare}
    ways = _ways_to_expand(common, found)
    for name, parameter in others.items():
        if name in ways:
            plans[name] = ParameterPlan("expanded", "one copy for each example")
            terms.append(Term((name,), (parameter,), "expanded", way=ways[name]))
        else:
            terms.append(Term((name,), (parameter,), "generic"))
    return plans, terms


def _obstacle(
    name: str, parameter: nn.Parameter, uses: Sequence[tuple[int, str]], found: Inspection
) -> str:
    """Why ``parameter`` cannot take the structured path; empty if it can."""
    if id(parameter) in found.rarely_used:
        return "only some examples have a gradient of it"
    if not uses:
        owner = found.model.get_submodule(name.rpartition(".")[0])
        return f"no rule for the way {type(owner).__name__} uses it"
    # autograd counts every use, also those by operations without a rule: a rule for some of them
    # would give a part of the gradient
    if found.num_uses[id(parameter)] != len(uses):
        return "used outside the calls that there are rules for as well"
    for index, _ in uses:
        if found.calls[index].reason:
            return found.calls[index].reason
    if len({role for _, role in uses}) > 1:
        return "used both as a weight and as a bias"
    # W and W^T of tied layers: their inputs and cotangents have changed places, and a Gram matrix
    # over both would mix them up
    if len({found.calls[index].rule.transposed for index, _ in uses}) > 1:
        return "used both as it is and transposed"
    return ""


def _structured_terms(
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
        form, window = _weight_form(calls, parameter, found, problem)
        sizes = _sizes(calls, found)
        terms[calls] = Term((name,), (parameter,), form, calls, True, False, *sizes, window)
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
) -> tuple[Form, Window | None]:
    """The cheaper order of contraction for a weight used by ``calls``, and its window, if any."""
    rules = [found.calls[i].rule for i in calls]
    positions, features, width = _sizes(calls, found)
    families = {rule.family for rule in rules}
    if families == {"scale"}:
        return "scale", None
    if len(families) > 1 or any(rule.groups > 1 for rule in rules):
        return "explicit", None
    # positions that no output depends on are dropped after capture, but not before gradients form
    active = sum(found.calls[i].active for i in calls)
    window = _window(calls, active, found)
    factored = _factored_cost(active, features, width, window, problem)
    explicit = _explicit_cost(positions, parameter.numel(), problem)
    return ("factored", window) if factored <= explicit else ("explicit", None)


def _window(calls: tuple[int, ...], active: int, found: Inspection) -> Window | None:
    """The window of a convolution called once on every example, where pixels cost less."""
    call = found.calls[calls[0]]
    window = call.rule.window
    if window is None or len(calls) > 1 or call.input_axis.fold > 1 or active < call.positions:
        return None
    by_patches = _gram_cost(call.positions, call.features, None)
    return window if _gram_cost(call.positions, call.features, window) < by_patches else None


def _sizes(calls: tuple[int, ...], found: Inspection) -> tuple[int, int, int]:
    """S, I and O over all of ``calls``."""
    chosen = [found.calls[i] for i in calls]
    features, width = max(c.features for c in chosen), max(c.width for c in chosen)
    return sum(c.positions for c in chosen), features, width


def _description(term: Term, found: Inspection) -> str:
    """How ``term`` is computed, in words."""
    owners = [found.model.get_submodule(name.rpartition(".")[0]) for name in term.names]
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


def _ways_to_expand(parameters: Mapping[str, nn.Parameter], found: Inspection) -> dict[str, int]:
    """Those of ``parameters`` that may be expanded, and how; tried out on three examples."""
    first_try = {n: _LEADING if p.shape[:1] == (1,) else 0 for n, p in parameters.items()}
    # mostly all go the usual way, which is two passes to see; else each is tried beside those that
    # are known to work
    if first_try and _works(first_try, parameters, found):
        return first_try
    ways: dict[str, int] = {}
    for name, parameter in parameters.items():
        for way in _WAYS:
            if way == _LEADING and parameter.shape[:1] != (1,):
                continue
            if _works({**ways, name: way}, parameters, found):
                ways[name] = way
                break
    return ways


def _works(
    ways: Mapping[str, int], parameters: Mapping[str, nn.Parameter], found: Inspection
) -> bool:
    """Whether outputs and the first example's gradients stay what they are."""
    # two and three examples: a way that works for one count by accident (a width of two, say) fails
    # for the other
    for x in (rows(found.three, slice(0, 2)), found.three):
        count = batch_size(x)
        leaves = {name: copies(parameters[name], way, count) for name, way in ways.items()}
        try:
            outputs = outputs_with(found.model, leaves, x)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if outputs.shape[1] != found.num_outputs or not close(outputs, found.outputs[:count]):
            return False
    grads = gradients_or_zeros((outputs * found.weights).sum(), list(leaves.values()))
    # of all examples' derivatives the first copy must get the first example's and no other
    return all(
        id(parameters[name]) in found.gradients
        and close(grad[0].flatten(), found.gradients[id(parameters[name])].flatten())
        for name, grad in zip(ways, grads, strict=True)
    )


def outputs_with(model: nn.Module, replaced: Mapping[str, Tensor], x: Batch) -> Tensor:
    """The outputs (n, k) of ``x`` with some parameters replaced."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return functional_call(model, dict(replaced), args, kwargs)

    return check_outputs(outputs_of(run, x), batch_size(x))
