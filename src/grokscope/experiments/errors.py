"""Mistakes in a spec, each with its path and, for a misspelt name, the nearest right one."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from grokscope.runs.files import NAME_TAKES
from grokscope.spelling import shortened, unknown_name

_WHOLE, _NUMBER, _SWITCH = "a whole number, as in 100", "a number, as in 0.5", "true or false"
# What a field takes, by the mistake that pydantic finds, as YAML writes it.
_TAKES = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping, as in {name: value}",
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "string_type": 'text, in quotes where it looks like a number: "1"',
    "invalid_key": 'names, in quotes where they look like numbers: "1"',
}


class SpecError(ValueError):
    """A spec has mistakes; the message lists all of them."""

    @classmethod
    def of(cls, name: str, found: Sequence[str]) -> SpecError:
        """The error that lists the mistakes found in what is called ``name``, a line each."""
        words = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        return cls("\n  ".join([f"{name} has {words}:", *found]))


def mistakes(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """One line for each mistake that pydantic found in a value for ``model``."""
    lines = []
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if detail["type"] == "union_tag_invalid":
            location = (*location, detail["ctx"]["discriminator"].strip("'"))
        if detail["type"] == "value_error":  # what a class says of its arguments begins with one
            word = detail["msg"].removeprefix("Value error, ").partition(" ")[0]
            location = (*location, word) if word in _fields(_descend(model, location)) else location
        path = f"{prefix}{_path(location, model)}".rstrip(".") or "spec"
        lines.append(f"{path}: {_reason(detail, model)}")
    return lines


def _reason(detail: Any, model: type[BaseModel]) -> str:
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        fields = _fields(_descend(model, detail["loc"][:-1]))
        return unknown_name("field", detail["loc"][-1], fields)
    if detail["type"] == "missing":
        return "missing"
    if detail["type"] in ("model_type", "model_attributes_type"):
        example = _as_section(given, _fields(_descend(model, detail["loc"])))
        return f"takes a section with fields of its own{example}; got {shortened(repr(given))}"
    if detail["type"] == "literal_error":
        known = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return unknown_name("value", given, known)
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        discriminator = detail["ctx"]["discriminator"].strip("'")
        if detail["type"] == "union_tag_not_found":
            return f"has no {discriminator!r}, which says what it is"
        known = detail["ctx"]["expected_tags"].replace("'", "").split(", ")
        return unknown_name(discriminator, detail["ctx"]["tag"], known)
    if detail["type"] == "string_pattern_mismatch":  # names are all that has a pattern
        return f"takes a name: {NAME_TAKES}; got {shortened(repr(given))}"
    if detail["type"] in _TAKES:
        # one value where a list of them belongs is shown as one
        one = detail["type"] in ("tuple_type", "list_type") and isinstance(given, (str, int, float))
        example = f", as in [{shortened(str(given))}]" if one else ""
        return f"takes {_TAKES[detail['type']]}{example}; got {shortened(repr(given))}"
    message = detail["msg"].removeprefix("Value error, ")
    got = f"got {shortened(repr(given))}"
    # what a class says of its arguments may end with it
    return message if isinstance(given, dict) or message.endswith(got) else f"{message}; {got}"


def _as_section(given: Any, fields: Sequence[str]) -> str:
    """How a name that was given alone is written as a section with these fields."""
    field = "import" if isinstance(given, str) and ":" in given else "name"
    known = isinstance(given, str) and field in fields
    return f", as in {{{field}: {shortened(given)}}}" if known else ""


def _path(location: Sequence[int | str], model: type[BaseModel]) -> str:
    """A dotted path without the tags that pydantic adds for the members of a union."""
    parts = []
    for index, part in enumerate(location):
        if not (isinstance(part, str) and part in _tags(_descend(model, location[:index]))):
            parts.append(shortened(str(part)))
    return ".".join(part for part in parts if part != "[key]")


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a type, with unions and annotations taken apart."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _tag(member: Any) -> str | None:
    """The name by which a union knows one of its members: its kind, or its class."""
    if isinstance(member, type) and issubclass(member, BaseModel):
        for field in ("kind", "name"):
            info = member.model_fields.get(field)
            if info is not None and get_origin(info.annotation) is Literal:
                # several values make a choice, not a tag
                values = get_args(info.annotation)
                if len(values) == 1:
                    return str(values[0])
        return member.__name__
    return None


def _tags(members: list[Any]) -> set[str]:
    tags = {tag for member in members if (tag := _tag(member))}
    return tags if len(members) > 1 else set()


def _fields(members: list[Any]) -> list[str]:
    return [
        name
        for member in members
        if isinstance(member, type) and issubclass(member, BaseModel)
        for name in member.model_fields
    ]


def _descend(model: Any, location: Sequence[int | str]) -> list[Any]:
    """The types that a value at a location may have."""
    members = [model]
    for part in location:
        chosen = [member for member in members if _tag(member) == part]
        if len(members) > 1 and chosen:
            members = chosen
            continue
        following: list[Any] = []
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseModel):
                info = member.model_fields.get(str(part))
                following += _members(info.annotation) if info else []
            elif get_args(member):
                value = 1 if get_origin(member) is dict else 0
                following += _members(get_args(member)[value])
        members = following
    return members
