"""How messages spell what was given: a name that is not known, a value of any length."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MAX_SHOWN = 80  # characters of what was given


def shortened(text: str, most: int = _MAX_SHOWN) -> str:
    """A text of which no message shows more than so many characters.

    Example:
        >>> shortened("[0, 1, 2, 3, 4]", 9), shortened("[0, 1]", 9)
        ('[0, 1, 2,...', '[0, 1]')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """One line: what was not found, the nearest right name, and all the right names.

    Example:
        >>> unknown_name("data set", "MNITS", ["digits", "mnist"])
        "unknown data set 'MNITS'; did you mean 'mnist'? known: digits, mnist"
    """
    names = sorted(known)
    by_lower_case = {right.lower(): right for right in names}
    near = difflib.get_close_matches(str(name)[:_MAX_SHOWN].lower(), by_lower_case, n=1, cutoff=0.5)
    hint = f" did you mean {by_lower_case[near[0]]!r}?" if near else ""
    shown = name if len(repr(name)) <= _MAX_SHOWN else shortened(str(name))
    return f"unknown {kind} {shown!r};{hint} known: {', '.join(names)}"
