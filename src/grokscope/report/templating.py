"""What a page is made of: templates, which escape everything, scripts, and its policy."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grokscope.report.wording import unbroken


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("grokscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _unbroken(value: Any) -> Any:
    """Plain text with its units kept on the line of their number."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return unbroken(value)
    return value


def render(name: str, **values: Any) -> Markup:
    """A template filled in."""
    return Markup(_environment().get_template(name).render(**values))


def source(name: str) -> str:
    """A file of the templates folder as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def plotly_script() -> str:
    """The part of plotly.js that draws our plots; ``vendor/README.md`` says where it is from."""
    return (files("grokscope.report") / "vendor" / "plotly-cartesian.min.js").read_text("utf-8")


def content_policy(scripts: Iterable[str], beside: bool = False) -> str:
    """A content security policy: these scripts and no other, and nothing from a network.

    Args:
        scripts: those that the page holds.
        beside: whether files beside the page are scripts of it too.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    own = "'self' " if beside else ""
    return (
        f"default-src 'none'; script-src {own}{hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def json_text(value: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
