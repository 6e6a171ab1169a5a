"""Optional dependencies: imported where they are needed, and named where they are missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtra(ValueError):
    """Something optional was asked for that is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """An optional module.

    Raises:
        MissingExtra: if it is not installed; the message says how to install it.

    Example:
        >>> require("no_such_module", "ray")
        Traceback (most recent call last):
            ...
        grokscope.extras.MissingExtra: no_such_module is not installed: pip install
        'grokscope[ray]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
        name = module.partition(".")[0]
        raise MissingExtra(f"{name} is not installed: pip install 'grokscope[{extra}]'") from None
