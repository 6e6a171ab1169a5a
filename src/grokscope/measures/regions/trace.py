"""Read a module as a graph of affine and piecewise-affine operations, or refuse it."""

from __future__ import annotations

import builtins
import copy
import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from grokscope.measures.guard import without_wrappers
from grokscope.measures.inputs import Model, check_not_batch_dependent
from grokscope.measures.regions.operations import (
    AFFINE_MODULES,
    FIRST,
    INSTEAD,
    INSTEAD_OF_MODULE,
    PRODUCTS,
    SHAPE_ATTRIBUTES,
    SHAPES,
    SUMS,
    Nonlinearity,
    function_kinks,
    module_kinks,
    pair_kinks,
)
from grokscope.measures.view import unwrapped

_TORCH = str(Path(torch.__file__).parent)
_TENSORS = (nn.Parameter, torch.Tensor, type(None))
_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Graph:
    """A traced module.

    Attributes:
        module: a float64 copy of the user's module, which the graph's layers belong to.
        nodes: the operations, in order, from the input to the last before the output.
        input: the node of the batch.
        output: the node whose value the module returns.
        data: the nodes whose values depend on the input's values.
        nonlinear: the nodes that are piecewise affine, in order, each with its kind.
        names: what each of ``nonlinear`` is called.
    """

    module: nn.Module
    nodes: list[fx.Node]
    input: fx.Node
    output: fx.Node
    data: set[fx.Node]
    nonlinear: dict[fx.Node, Nonlinearity]
    names: list[str]


def trace(model: Model) -> Graph:
    """The graph of a float64 copy of ``model``.

    Raises:
        TypeError: if it is not a module.
        ValueError: if it is in training mode where that matters, cannot be traced, or has an
            operation that is not piecewise affine.
    """
    model = _plain(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module to be traced: got {type(model).__name__}")
    check_not_batch_dependent(model)
    module = float64_copy(model)
    graph = _chain(module)
    return _classify(module, _traced(module) if graph is None else graph)


def _plain(model: Model) -> Model:
    """The module inside of wrappers that compute what it does: compiled, parallel, a view."""
    inner = unwrapped(without_wrappers(model))
    return model if inner is model else _plain(inner)


def _traced(module: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        raise ValueError(
            f"model cannot be traced by torch.fx ({type(error).__name__}: {error}"
            f"{_line_of(error)}); its forward must not branch on the values of tensors, nor on the "
            "number of examples in the batch (an if on x.shape[0] or len(x)): take such a branch "
            "out, or pass a module without it"
        ) from error


def _line_of(error: Exception) -> str:
    """The last line of the traceback outside of torch, which is the user's own."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]
        if not frame.filename.startswith(_TORCH)
    ]
    if not frames:
        return ""
    return f", at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"


def _chain(module: nn.Module) -> fx.Graph | None:
    """The graph of a nest of plain nn.Sequentials of torch's layers, which needs no tracing."""
    graph = fx.Graph()
    node = graph.placeholder("input")
    for name, layer in _leaves("", module):
        if _is_torchs_own(layer):
            node = graph.call_module(name, (node,))
        else:
            return None
    graph.output(node)
    return graph


def _leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    plain = "forward" not in vars(module) and not module._forward_pre_hooks
    if plain and type(module) is nn.Sequential:
        for key, layer in module.named_children():
            yield from _leaves(f"{name}.{key}" if name else key, layer)
    else:
        yield name, module


def float64_copy(model: nn.Module) -> nn.Module:
    """A frozen float64 copy that shares nothing with ``model`` and runs none of its hooks."""
    try:
        module = copy.deepcopy(model, _copied_layers(model))
    except Exception as error:
        raise ValueError(
            f"model cannot be copied ({error}); linear_regions works on a float64 copy of it"
        ) from error
    if any(tensor.device.type == "mps" for tensor in module.state_dict().values()):
        module = module.cpu()
    for part in module.modules():
        # A compiled call would run the model's own weights. Hooks watch training; pre-hooks stay,
        # since weight normalization is one.
        part._compiled_call_impl = None
        part._forward_hooks.clear()
        part._backward_hooks.clear()
    return module.double().requires_grad_(False)


def _copied_layers(model: nn.Module) -> dict[int, Any]:
    """Copies of those of torch's own layers that hold tensors and constants alone, by their ids.

    For `copy.deepcopy`, which on a small network would spend most of its time on empty
    dictionaries of hooks.
    """
    copies: dict[int, Any] = {}
    for layer in model.modules():
        if not _is_torchs_own(layer):
            continue
        tensors = {**layer._parameters, **layer._buffers}.values()
        others = [v for k, v in vars(layer).items() if k not in ("_parameters", "_buffers")]
        if all(type(tensor) in _TENSORS for tensor in tensors) and all(map(_is_constant, others)):
            one = copies[id(layer)] = copy.copy(layer)
            for name, value in vars(layer).items():
                if isinstance(value, dict | set | list):
                    # what is not empty is tensors, which layers may share, or a list of constants
                    vars(one)[name] = copy.deepcopy(value, copies) if value else value.copy()
    return copies


def _is_torchs_own(layer: nn.Module) -> bool:
    """Whether it is a layer of torch's without parts."""
    return type(layer).__module__.startswith("torch.nn.modules") and not layer._modules


def _is_constant(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(type(entry) in _CONSTANTS for entry in value)
    return type(value) in _CONSTANTS or (isinstance(value, dict | set) and not value)


def _classify(module: nn.Module, graph: fx.Graph) -> Graph:
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    missing = [node.name for node in placeholders[1:] if not node.args]
    if not placeholders or missing:
        raise ValueError(f"model must take one tensor: its forward also needs {missing}")
    result = _returned(graph)
    found = Graph(module, [], placeholders[0], result, {placeholders[0]}, {}, [])
    for node in depends_on(list(graph.nodes), [result], set()):
        found.nodes.append(node)
        depends = [source for source in node.all_input_nodes if source in found.data]
        if not depends or _reads_shape(node):
            continue  # a constant, or known from the shape alone
        found.data.add(node)
        _make_out_of_place(node)
        kind = _nonlinearity(module, node)
        if kind is not None:
            found.nonlinear[node] = kind
            name = str(node.target) if node.op == "call_module" else node.name
            found.names.append(_unused(name, found.names))
        elif not _is_affine(module, node, depends):
            raise ValueError(_refusal(module, node))
    if result not in found.data:
        raise ValueError("model's output does not depend on its input")
    return found


def _returned(graph: fx.Graph) -> fx.Node:
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise ValueError(
            f"model must return one tensor: got a {type(result).__name__}; wrap it in a module "
            "that picks the tensor to study"
        )
    return result


def _reads_shape(node: fx.Node) -> bool:
    if node.target is builtins.getattr:
        return node.args[1] in SHAPE_ATTRIBUTES
    return node.op in ("call_function", "call_method") and node.target in SHAPES


def _make_out_of_place(node: fx.Node) -> None:
    """Keep a call from overwriting a value that is still needed."""
    if node.op not in ("call_function", "call_method"):
        return
    node.target = INSTEAD.get(node.target, node.target)
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    if inspect.isfunction(node.target):
        names = list(inspect.signature(node.target).parameters)
        if "inplace" in names:
            node.args = node.args[: names.index("inplace")]


def _nonlinearity(module: nn.Module, node: fx.Node) -> Nonlinearity | None:
    if node.op == "call_module":
        return module_kinks(module.get_submodule(str(node.target)))
    if len(node.args) == 2 and all(isinstance(argument, fx.Node) for argument in node.args):
        pair = pair_kinks(node.target)
        if pair is not None:
            return pair
    return function_kinks(node.target, node.args, dict(node.kwargs))


def _is_affine(module: nn.Module, node: fx.Node, depends: list[fx.Node]) -> bool:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return isinstance(layer, AFFINE_MODULES)
    if node.target in SUMS:
        return True
    if node.target in PRODUCTS:
        arguments = [*node.args, *node.kwargs.values()]
        return sum(argument in depends for argument in arguments) == 1
    if node.target not in FIRST:
        return False
    others = {name: value for name, value in node.kwargs.items() if name != "input"}
    found: list[fx.Node] = []
    fx.node.map_arg((node.args[1:], others), found.append)
    return not set(found).intersection(depends)


def _unused(name: str, taken: list[str]) -> str:
    """``name``, numbered where a layer is used more than once."""
    if name not in taken:
        return name
    return next(f"{name}:{i}" for i in range(2, len(taken) + 3) if f"{name}:{i}" not in taken)


def _refusal(module: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        what = f"layer {node.target!r} ({type(layer).__name__})"
    else:
        stack = node.meta.get("nn_module_stack") or {}
        inside = next(reversed(stack), "") if stack else ""
        called = getattr(node.target, "__name__", node.target)
        what = f"call of {called!r} (in {inside or 'forward'!r})"
    return (
        f"model's {what} is not known to be piecewise affine, so the model has no linear regions "
        "that could be found exactly; pass the part of the model before it, or replace it"
    )


def attribute(module: nn.Module, path: str) -> Any:
    """The parameter, buffer or constant at a dotted path."""
    for part in path.split("."):
        module = getattr(module, part)
    return module


def execute(graph: Graph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The value of one node, from the values of its arguments."""
    if node.op == "placeholder":
        return node.args[0]
    if node.op == "get_attr":
        return attribute(graph.module, str(node.target))
    given: Any = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source])
    args, kwargs = given
    if node.op == "call_module":
        layer = graph.module.get_submodule(str(node.target))
        if getattr(layer, "inplace", False):
            args = [args[0].clone(), *args[1:]]
        return INSTEAD_OF_MODULE.get(type(layer), layer)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def depends_on(nodes: list[fx.Node], wanted: list[fx.Node], given: set[fx.Node]) -> list[fx.Node]:
    """Those of ``nodes`` that must run to know ``wanted`` when ``given`` are known, in order."""
    needed, stack = set(), [node for node in wanted if node not in given]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(source for source in node.all_input_nodes if source not in given)
    return [node for node in nodes if node in needed]
