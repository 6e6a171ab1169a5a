"""What commands share in speaking to a person or to a program."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

# No markup and no emoji: brackets and colons in titles and paths stand for themselves.
OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(highlight=False, markup=False, emoji=False, stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]


def print_json(value: Any) -> None:
    """Print a value for a program; nothing else goes to stdout then."""
    whole = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not whole))


def note(message: str) -> None:
    """Say on stderr what was not as it should be, and go on."""
    print(f"grokscope: {message}", file=sys.stderr)


def fail(message: str, code: int = 2) -> int:
    """Say on stderr what went wrong, and return the exit code."""
    note(message)
    return code
