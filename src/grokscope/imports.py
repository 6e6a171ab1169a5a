"""Objects that a user names by where they are defined, as ``package.module:Name``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from grokscope.spelling import shortened, unknown_name

_MAX_SAID = 300  # characters of what a user's code says of its failure
_OURS = str(Path(__file__).parent) + os.sep
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_ours(thing: Any) -> bool:
    """Whether a function, or what an object is of, is the library's own and no user's.

    Example:
        >>> is_ours(check_import_path), is_ours(print), is_ours(Path())
        (True, False, False)
    """
    return (getattr(thing, "__module__", None) or "").startswith("grokscope.")


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
        ValueError: if there is no such module or it holds no such name; if the module's own code
            fails; or if the folder's module has the name of another that was imported already.

    Example:
        >>> imported("grokscope.models:MLP").__name__
        'MLP'
    """
    module_name, _, name = check_import_path(path).partition(":")
    with _searched_first(folder):
        with failures_told(path, folder):
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                    raise  # the module is there, and misses another
                places = "" if folder is None else f" in {folder} or"
                raise _OwnCodeError(
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


class _OwnCodeError(ValueError):
    """Said already in words of ours."""


@contextmanager
def failures_told(path: str, folder: str | Path | None = None) -> Iterator[None]:
    """Make whatever a user's code at ``path`` raises one line that names its file and line.

    An interruption and a lack of memory stay what they are.

    Raises:
        ValueError: if the code fails, or ends the process as ``sys.exit`` does.
    """
    try:
        yield
    except (_OwnCodeError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        said = str(error.msg if isinstance(error, SyntaxError) else error).strip()
        first = shortened(said.partition("\n")[0], _MAX_SAID)
        name = type(error).__name__
        raise _OwnCodeError(
            f"import {path}{_place(error, folder)}: {f'{name}: {first}' if first else name}"
        ) from error


def _place(error: BaseException, folder: str | Path | None) -> str:
    """Where a user's code failed, in brackets: its last line, not one of what it calls."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames = [(error.filename, error.lineno)]
    else:
        found = traceback.extract_tb(error.__traceback__)
        frames = [(at.filename, at.lineno) for at in found if not at.filename.startswith("<")]
        theirs = [at for at in frames if not at[0].startswith(_OURS)]
        root = None if folder is None else str(Path(folder).resolve()) + os.sep
        frames = [at for at in theirs if root and at[0].startswith(root)] or theirs[-1:]
    if not frames:
        return ""
    file, line = frames[-1]
    here = str(Path.cwd()) + os.sep
    return f" ({file.removeprefix(here)}, line {line})"


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
