"""Sections of a spec: their kind, and those made from the signatures they are the arguments of.

What a method, a model or a training can be told is written in its own signature, once. A section
has the same fields with the same defaults, in the types that YAML can write.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _make_scalars_strict(schema: Any) -> None:
    """Change, in place, every bool, int and float of a schema to take no other type."""
    if isinstance(schema, dict):
        if schema.get("type") in ("bool", "int", "float"):
            schema["strict"] = True
        for part in schema.values():
            _make_scalars_strict(part)
    elif isinstance(schema, (list, tuple)):
        for part in schema:
            _make_scalars_strict(part)


class Strict(BaseModel):
    """A part of a spec: unknown fields are mistakes, and nothing changes once it is read.

    A number is a number: neither true nor "3" is one, and a whole number is written as one. Lists,
    which is what YAML has, stand for tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema with strict numbers and switches.

        ``ConfigDict(strict=True)`` would refuse lists for tuples and mappings for sections too.
        """
        schema = handler(source)
        _make_scalars_strict(schema)
        return schema


def section_of(
    function: Callable[..., Any],
    without: Collection[str] = (),
    base: type[Strict] = Strict,
    **written: Any,
) -> type[Strict]:
    """A section whose fields are the arguments of a function or class, with its defaults.

    Args:
        function: whose arguments they are.
        without: arguments that no spec gives.
        base: the class of the section.
        **written: the type of a field, or type and default, where it is not the argument's; or
            a field of its own.

    Example:
        >>> def f(width: int, scale: float = 1.0, seed: int = 0): ...
        >>> section_of(f, without=["seed"])(width=3).model_dump()
        {'width': 3, 'scale': 1.0}
    """
    arguments = [name for name in signature(function).parameters if name not in without]
    called = vars(function)["__init__"] if isinstance(function, type) else function
    hints = get_type_hints(called)
    defaults = {name: own.default for name, own in signature(function).parameters.items()}
    fields: dict[str, Any] = {}
    for name in [*(name for name in written if name not in arguments), *arguments]:
        of = written.get(name, _written(hints.get(name, Any)))
        if not isinstance(of, tuple):
            of = of, ... if defaults[name] is Parameter.empty else defaults[name]
        fields[name] = of
    return create_model(f"{function.__name__}Section", __base__=base, **fields)


def one_of(*types: Any) -> Any:
    """The union of types that are not known before the program runs."""
    return reduce(or_, types)


def _written(hint: Any) -> Any:
    """The type as YAML writes it: sequences as lists that do not change, only plain values."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if get_origin(member) is not type]
        return one_of(*(_written(member) for member in members))
    if origin is Sequence:
        return types.GenericAlias(tuple, (_written(arguments[0]), ...))
    return hint
