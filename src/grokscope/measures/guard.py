"""One guard that leaves a model as it was, whatever its forward pass does to it.

A measure only looks. But a forward pass may update running statistics, renormalize an embedding's
rows, advance the vectors of a spectral norm, count its calls, draw random numbers or register
hooks, and the model may be wrapped (DistributedDataParallel, torch.compile) or hidden in a lambda,
a partial or a method. `undisturbed` finds every module that a call of the model may run and puts
back what has changed.

Cost: a copy of the buffers, and of the parameters that a forward pass could change: those of an
embedding with ``max_norm``, and all where code that is not PyTorch's own runs: the model's, or that
of a measure of the user's own.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from grokscope.measures.hooks import outside_training
from grokscope.measures.host_random import host_random_kept

# of a model with code of its own, all parameters are copied up to this size; beyond it, those
# that modules with code of their own hold themselves
_COPIED_BYTES = 1_000_000_000
# what holds a wrapped module and has state of its own that must keep step with its C++ side
_WRAPPERS = ("torch.nn.parallel.", "torch.distributed.", "torch._dynamo.", "torch.jit.")
# code that changes nothing of a module but buffers, and the rows of an embedding with max_norm
_KNOWN = ("torch.nn.modules.", "grokscope.")
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


@contextmanager
def undisturbed(
    model: object, training: bool | None = None, *, own_code: bool = False
) -> Iterator[Callable[[], None]]:
    """Run ``model`` freely inside; afterwards it and the random state are what they were.

    Put back are: the mode of every module, its attributes, hooks, buffers and parameters, the
    gradients, which are None inside, and the state of the random generators of Python, NumPy and
    PyTorch, on the CPU and on the model's CUDA devices. Compiled code runs eagerly inside: hooks
    fire, and a graph may be walked more than once. DistributedDataParallel runs the module in it
    and nothing else: a measure that one process takes alone must not start what all processes do
    together.

    Args:
        model: a module, wrapped or not, or a function, partial, method or object that calls
            modules: those are found in closures, arguments, attributes and globals.
        training: True or False puts every module in that mode; None leaves their modes alone.
        own_code: whether code of the user's own runs beside the model's, as a measure: it can
            change whatever it reaches, which is then guarded as in a model with code of its own.

    Yields:
        A function that puts the model back in between, random state apart: so that every forward
        pass starts from the same model, as one that counts its calls.

    Raises:
        RuntimeError: if a parameter was changed of which no copy was made, as of a model of over
            1 GB.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        >>> with undisturbed(lambda x: 2 * model(x)):
        ...     _ = model(torch.randn(5, 3))
        >>> model[1].num_batches_tracked
        tensor(0)
    """
    with host_random_kept():
        roots = modules_within(model)
        modules = list(dict.fromkeys(m for root in roots for m in root.modules()))
        wrappers = [m for m in modules if isinstance(m, nn.parallel.DistributedDataParallel)]
        own_code |= not isinstance(model, nn.Module) or not all(map(_is_known, modules))
        tensors = _tensors(modules, own_code)
        states = [_State.of(module, own_code) for module in modules]

        def arrange() -> None:
            if training is not None:
                for root in roots:
                    root.train(training)
            for wrapper in wrappers:
                vars(wrapper)["forward"] = wrapper.module.__call__
            for kept in tensors:
                kept.without_gradient()

        def restore() -> list[str]:
            for wrapper in wrappers:
                vars(wrapper).pop("forward", None)
            changed: list[str] = []
            failed = None
            everything: list[_State | _Kept] = [*states, *tensors]
            for kept in everything:
                try:
                    if not kept.restore():
                        changed.append(kept.name)
                except Exception as error:  # what comes after it is put back all the same
                    failed = failed or error
            if failed is not None:
                raise failed
            return changed

        def rewind() -> None:
            restore()
            arrange()

        changed: list[str] = []
        try:
            arrange()
            recurrence = _differentiable_recurrence(modules)
            fork = torch.random.fork_rng(_cuda_devices(tensors))
            with outside_training(), fork, eagerly(), recurrence:
                yield rewind
        finally:
            changed = restore()
        if changed:
            raise RuntimeError(
                f"the parameter {changed[0]!r} was changed, by the model in its forward pass or by "
                "a measure, and the model is too large for a copy of all parameters; measure a "
                "copy of the model instead"
            )


def _differentiable_recurrence(modules: list[nn.Module]) -> AbstractContextManager[Any]:
    """PyTorch's own recurrent kernels on a GPU: cuDNN's have no derivatives in eval mode."""
    recurrent = (m for m in modules if isinstance(m, nn.RNNBase))
    if any(parameter.is_cuda for module in recurrent for parameter in module.parameters()):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def without_wrappers(model: Any) -> Any:
    """The module inside DistributedDataParallel, DataParallel and torch.compile, else ``model``.

    Its layers and parameters have the names that they have without the wrapper.
    """
    while isinstance(model, nn.Module):
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            break
    return model


def modules_within(model: object) -> list[nn.Module]:
    """The outermost modules that a call of ``model`` may run, each once.

    A function is followed into its closure, defaults and the globals that it names; an object
    into the attributes that its code names; a module into what it holds without registering it.
    """
    found: dict[nn.Module, None] = {}
    seen: set[tuple[int, frozenset[str]]] = set()
    waiting: list[tuple[Any, frozenset[str]]] = [(model, frozenset())]
    while waiting:
        thing, names = waiting.pop(0)
        if (id(thing), names) in seen:
            continue
        seen.add((id(thing), names))
        if isinstance(thing, nn.Module):
            found[thing] = None
            waiting += [held for m in thing.modules() for held in _unregistered(m)]
        else:
            waiting += _held(thing, names)
    inner = {m for module in found for m in module.modules() if m is not module}
    return [module for module in found if module not in inner]


def _unregistered(module: nn.Module) -> list[tuple[Any, frozenset[str]]]:
    """What a module holds in plain attributes and might call, and the names that its code uses.

    That is modules in lists, functions, and the objects that its forward pass names.
    """
    own = vars(module)
    kind: Any = type(module)
    # of ours a view holds what it shows, a module or any function
    if _is_known(module) and _forward_of(kind).__module__.startswith("torch."):
        return []
    names = _named_by(_forward_of(kind), kind)
    replaced = getattr(own.get("forward"), "__func__", own.get("forward"))
    if isinstance(replaced, FunctionType):
        names |= _names(replaced.__code__)
    return [
        (value, names)
        for name, value in own.items()
        if name not in _MODULE_ATTRIBUTES
        and (name in names or isinstance(value, (*_FOLLOWED, list, tuple, dict)))
    ]


def runs_known_code(kind: type) -> bool:
    """Whether the forward of a class is that of a layer of PyTorch or of ours.

    A module that torch.fx, torch.export or TorchScript made has code of its own.
    """
    return (getattr(_forward_of(kind), "__module__", None) or "").startswith(_KNOWN)


def _forward_of(kind: type) -> Any:
    """The forward of a class, None where it has none of its own, as one compiled to TorchScript."""
    try:
        return kind.forward  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None


@functools.lru_cache(maxsize=1024)
def _named_by(function: Any, kind: Any) -> frozenset[str]:
    """What a method of a class names, and what the further methods name that it uses."""
    found: set[str] = set()
    waiting: list[Any] = [function]
    while waiting:
        named = waiting.pop()
        method: Any = inspect.unwrap(getattr(named, "fget", named))
        if isinstance(method, FunctionType) and not (method.__module__ or "").startswith("torch."):
            new = _names(method.__code__) - found
            found |= new
            waiting += [getattr(kind, name, None) for name in new]
    return frozenset(found)


_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_FOLLOWED = (nn.Module, FunctionType, MethodType, functools.partial)


def _held(thing: Any, names: frozenset[str]) -> list[tuple[Any, frozenset[str]]]:
    """What running ``thing``, by code that uses ``names``, may lead to."""
    if isinstance(thing, Tensor | str | int | float | type | BuiltinFunctionType | None):
        return []
    if isinstance(thing, FunctionType):
        return _held_by_function(thing)
    if isinstance(thing, MethodType):
        own = _names(thing.__func__.__code__) if isinstance(thing.__func__, FunctionType) else names
        return [(thing.__func__, frozenset()), (thing.__self__, own)]
    if isinstance(thing, functools.partial):
        values = [thing.func, *thing.args, *thing.keywords.values()]
        return [(value, frozenset()) for value in values]
    if isinstance(thing, list | tuple | set | dict):
        values = list(thing.values() if isinstance(thing, dict) else thing)
        return [(v, names) for v in values if not isinstance(v, Tensor | str | int | float)]
    if isinstance(thing, ModuleType):
        if thing.__name__.partition(".")[0] in ("torch", "numpy"):
            return []
        return [(vars(thing)[n], frozenset()) for n in names if n in vars(thing)]
    return _held_by_object(thing, names)


def _held_by_function(function: FunctionType) -> list[tuple[Any, frozenset[str]]]:
    if (function.__module__ or "").partition(".")[0] == "torch":
        names: frozenset[str] = frozenset()  # its globals are PyTorch's, its closure may be ours
    else:
        names = _names(function.__code__)
    values = [function.__globals__[n] for n in names if n in function.__globals__]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            continue
    values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    values.append(getattr(function, "__wrapped__", None))
    return [(value, names) for value in values]


def _held_by_object(thing: Any, names: frozenset[str]) -> list[tuple[Any, frozenset[str]]]:
    """The attributes of an object that are named, and the methods that use further ones."""
    kind = type(thing)
    if kind.__module__.partition(".")[0] in ("torch", "numpy"):
        return []
    call = getattr(kind, "__call__", None)  # noqa: B004
    if isinstance(call, FunctionType):
        names = names | _names(call.__code__)
    attributes = getattr(thing, "__dict__", {})
    held = [(attributes[n], names) for n in names if n in attributes]
    for name in names:
        method = getattr(kind, name, None)
        if isinstance(method, MemberDescriptorType) and hasattr(thing, name):  # of __slots__
            held.append((getattr(thing, name), names))
        if isinstance(method, FunctionType):
            held.append((MethodType(method, thing), frozenset()))
    return held


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """The globals and attributes that a function's code names, those of inner functions too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*map(_names, inner))


def _is_known(module: nn.Module) -> bool:
    """Whether the module runs PyTorch's and our code only, which changes buffers at most."""
    kind, own = type(module), vars(module)
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return (
        runs_known_code(kind)
        and kind.__call__ is nn.Module.__call__
        and "forward" not in own
        and all(type(hook).__module__.startswith(_KNOWN) for hook in hooks)
        and not any(_is_own_function(v) for n, v in own.items() if n not in _MODULE_ATTRIBUTES)
    )


def _is_own_function(held: Any) -> bool:
    """Whether what a module holds is a function of the user's own, as a view or a layer may."""
    if not callable(held) or isinstance(held, nn.Module | BuiltinFunctionType | type):
        return False
    place = getattr(held, "__module__", None) or type(held).__module__
    return place.partition(".")[0] not in ("torch", "grokscope")


@dataclass
class _State:
    """A module's mode and attributes, and what the containers and generators in them held."""

    module: nn.Module
    training: bool
    attributes: dict[str, Any]
    contents: list[tuple[Any, Any]]

    @classmethod
    def of(cls, module: nn.Module, own_code: bool) -> _State:
        wrapper = f"{type(module).__module__}.".startswith(_WRAPPERS)
        attributes = dict(vars(module)) if own_code and not wrapper else {}
        return cls(module, module.training, attributes, _contents(attributes))

    @property
    def name(self) -> str:
        """The kind of the module."""
        return type(self.module).__name__

    def restore(self) -> bool:
        """Put everything back."""
        if self.attributes:
            _refill(vars(self.module), self.attributes)
            for held, before in self.contents:
                if isinstance(held, torch.Generator):
                    held.set_state(before)
                else:
                    _refill(held, before)
        if self.module.training is not self.training:
            self.module.training = self.training
        return True


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Every container and random generator that attributes hold, however deep, with a copy."""
    found: dict[int, tuple[Any, Any]] = {}
    waiting = list(attributes.values())
    while waiting:
        held = waiting.pop()
        if type(held) is tuple:
            waiting += held
        elif id(held) in found:
            continue
        elif isinstance(held, torch.Generator):
            found[id(held)] = held, held.get_state()
        elif type(held) in _CONTAINERS:
            found[id(held)] = held, held.copy()
            waiting += held.values() if isinstance(held, dict) else held
    return list(found.values())


def _refill(container: Any, before: Any) -> None:
    """Give a container the very objects that it had, unless it has them."""
    if len(container) == len(before):
        if isinstance(container, dict):
            same = all(k in before and v is before[k] for k, v in container.items())
        else:
            same = all(a is b for a, b in zip(container, before, strict=True))
        if same:
            return
    container.clear()
    container.extend(before) if hasattr(container, "extend") else container.update(before)


@dataclass
class _Kept:
    """A parameter, buffer or attribute, and how it was; ``copy`` is None where none was made."""

    tensor: Tensor
    name: str
    copy: Tensor | None
    version: int
    gradient: Tensor | None
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor, name: str, copied: bool) -> _Kept:
        with torch.no_grad():
            copy = tensor.clone() if copied else None
        gradient = tensor.grad if tensor.is_leaf else None
        version = -1 if tensor.is_inference() else tensor._version
        return cls(tensor, name, copy, version, gradient, tensor.requires_grad)

    def without_gradient(self) -> None:
        if self.gradient is not None:
            self.tensor.grad = None

    def restore(self) -> bool:
        """Put everything back; False where values changed of which there is no copy."""
        tensor, copy = self.tensor, self.copy
        if tensor.is_leaf:
            if tensor.requires_grad is not self.requires_grad:  # refused of inference tensors
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.gradient:
                tensor.grad = self.gradient
        if copy is None:
            return tensor.is_inference() or tensor._version == self.version
        if self._changed(copy):
            with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
                if tensor.shape == copy.shape:
                    tensor.copy_(copy)
                else:
                    tensor.data = copy
        return True

    def _changed(self, copy: Tensor) -> bool:
        """Whether the values are others; writing the same ones would spoil graphs that hold them.

        A version counter does not see what is written through ``.data``, hence the comparison.
        """
        tensor = self.tensor
        plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.layout == torch.strided
        if plain and not tensor.is_meta and not tensor.is_quantized:
            return not torch.equal(tensor, copy)
        return tensor._version != self.version


def _tensors(modules: list[nn.Module], own_code: bool) -> list[_Kept]:
    """Every parameter, buffer and tensor attribute of the modules, each once."""
    named: dict[Tensor, tuple[str, nn.Module, bool]] = {}
    for module in modules:
        own = vars(module)
        script = isinstance(module, torch.jit.ScriptModule)
        groups = [
            (True, dict(module.named_parameters(recurse=False)) if script else own["_parameters"]),
            (False, dict(module.named_buffers(recurse=False)) if script else own["_buffers"]),
        ]
        if own_code:
            groups.append((False, own))
        for parameter, group in groups:
            for name, tensor in group.items():
                if isinstance(tensor, Tensor) and tensor not in named and not is_lazy(tensor):
                    named[tensor] = name, module, parameter
    size = sum(t.nbytes for t, (_, _, parameter) in named.items() if parameter)
    every = own_code and size <= _COPIED_BYTES
    return [
        _Kept.of(tensor, name, copied=every or not parameter or _may_change(module))
        for tensor, (name, module, parameter) in named.items()
    ]


def _may_change(module: nn.Module) -> bool:
    """Whether a forward pass of the module itself could change its own parameters."""
    return getattr(module, "max_norm", None) is not None or not _is_known(module)


def _cuda_devices(tensors: list[_Kept]) -> list[torch.device]:
    devices = {kept.tensor.device for kept in tensors if kept.tensor.is_cuda}
    if not devices and torch.cuda.is_initialized():
        devices = {torch.device("cuda", torch.cuda.current_device())}
    return list(devices)


def eagerly() -> AbstractContextManager[Any]:
    """A context in which compiled parts run as they were written.

    Compiled code differentiates once only, and by one vector only.
    """
    # what was compiled has imported dynamo; importing it here would take a second
    if "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
