"""Docstrings as they stand in the code, made into the reStructuredText that Sphinx reads.

They are written for a terminal: ``||A||``, ``(n, *d)`` and indented equations. Marks that mean
something to reStructuredText are escaped, equations kept line by line, and names of the library
that stand without their module are found by their last part.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.util.nodes import make_refnode

_CODE = re.compile(r"(``.*?``|`[^`]+`)")
_SECTION = re.compile(r"^\s*(Args|Returns|Raises|Attributes|Example|Examples|Yields|Note):\s*$")


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring, with equations as literal blocks and marks escaped."""
    found: list[str] = []
    literal: int | None = None  # the indentation of the text in front of an indented block
    section = False
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if _SECTION.match(line):
            section = True
        elif line.strip() and not indent:
            section = False
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        before = next((text for text in reversed(lines[:number]) if text.strip()), "")
        starts = (
            literal is None
            and line.strip()
            and number
            and not lines[number - 1].strip()
            and not section
            and indent > len(before) - len(before.lstrip())
            and not before.rstrip().endswith("::")
        )
        if starts:
            literal = len(before) - len(before.lstrip())
            found += [" " * literal + "::", ""]
        verbatim = literal is not None or line.lstrip().startswith((">>>", "..."))
        found.append(line if verbatim else _escaped(line))
    return found


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part)
        for part in parts
    )


def _rewrite(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)
    if what in ("property", "attribute") and lines:
        # napoleon takes what stands in front of a colon there for a type
        lines[0] = lines[0].replace(": ", " \N{EN DASH} ")


def _signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str, None] | None:
    """The signature of ``__init__`` where a base class's ``__new__`` hides it."""
    if what != "class" or "*_arguments" not in (signature or ""):
        return None
    own = list(inspect.signature(obj.__init__).parameters.values())[1:]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in own]
    return str(inspect.Signature(bare)), None


def _by_last_part(app: Any, env: Any, node: Any, contnode: Any) -> nodes.Node | None:
    """A name that stands without its module, where one object of the library has it."""
    if node.get("refdomain") != "py":
        return None
    target = str(node.get("reftarget", "")).rsplit(".", 1)[-1]
    objects = env.get_domain("py").objects
    matches = [
        key
        for key, entry in objects.items()
        if key.rsplit(".", 1)[-1] == target and entry.objtype in ("class", "function", "exception")
    ]
    if len(matches) != 1:
        return None
    entry = objects[matches[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode)


def setup(app: Any) -> dict[str, bool]:
    """Rewrite docstrings before napoleon does (priority 500)."""
    app.connect("autodoc-process-docstring", _rewrite, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _by_last_part, priority=600)
    return {"parallel_read_safe": True}
