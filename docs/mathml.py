"""Equations as MathML, which browsers draw themselves: no script, no font, no third party.

Sphinx comes with MathJax, 2 MB from another server or from the repository, and with pictures made
by LaTeX. latex2mathml is a small package of pure Python that converts the equations at the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(latex: str, display: str, node: Any = None) -> str:
    """The equation as a ``math`` element; a command that is not known is a warning of the build."""
    found = convert(latex, display=display)
    if "\\" in found:
        logger.warning(
            "latex2mathml does not know a command of the equation %s", latex, location=node
        )
    return found


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="equation">{mathml(node.astext(), "block", node)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Draw equations of HTML pages by this."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True}
