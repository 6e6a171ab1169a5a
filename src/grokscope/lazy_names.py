"""Packages that list their names and import a module when one of its names is first used.

The names stand once, as plain imports in the package's stub ``__init__.pyi``, where type checkers
and editors read them too; PEP 562 does the rest. So ``grokscope --help`` never waits for torch.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package whose stub lists its names.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    places = stub_names(Path(file).with_suffix(".pyi"))

    def get(name: str) -> Any:
        if name in places:
            module, original = places[name]
            return getattr(import_module(module), original)
        # A package inside this one is an attribute of it, as after an import.
        if not name.startswith("_") and (Path(file).parent / name).is_dir():
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(places)


def stub_names(stub: Path) -> dict[str, tuple[str, str]]:
    """The names that a stub imports: each with its module and its name there."""
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.parse(stub.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
