"""Objects that a user names by where they are defined, as ``package.module:Name``."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from grokscope.spelling import unknown_name

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_import_path(path: str) -> str:
    """The path itself; nothing is imported.

    Raises:
        ValueError: if it is not written as ``package.module:Name``.
    """
    if not _PATH.fullmatch(path):
        raise ValueError(f"an import is written package.module:Name: got {path!r}")
    return path


def imported(path: str, folder: str | Path | None = None) -> Any:
    """The class or function at ``package.module:Name``. This runs the module's code.

    Args:
        path: of the object.
        folder: where its modules are looked for first, beside the installed ones.

    Raises:
        ValueError: if there is no such module or it holds no such name; or if the folder's module
            has the name of another that was imported already.

    Example:
        >>> imported("grokscope.models:MLP").__name__
        'MLP'
    """
    module_name, _, name = check_import_path(path).partition(":")
    with _searched_first(folder):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another
            places = "" if folder is None else f" in {folder} or"
            raise ValueError(
                f"import {path}: there is no module {error.name!r}{places} installed"
            ) from None
        _check_origin(module, module_name, folder)
    if not hasattr(module, name):
        known = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, ModuleType)
        ]
        raise ValueError(f"import {path}: {unknown_name(f'name in {module_name}', name, known)}")
    return getattr(module, name)


@contextmanager
def _searched_first(folder: str | Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    place = str(Path(folder).resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _check_origin(module: Any, name: str, folder: str | Path | None) -> None:
    """Raise where the folder holds this module and Python gave another of its name."""
    if folder is None:
        return
    top, *rest = name.split(".")
    if rest:
        return
    own = [Path(folder).resolve() / f"{top}.py", Path(folder).resolve() / top / "__init__.py"]
    there = [path for path in own if path.exists()]
    origin = getattr(module, "__file__", None)
    if there and origin is not None and Path(origin).resolve() not in there:
        raise ValueError(
            f"{there[0]} has the name of the module {origin}, which was imported before: rename it"
        )
