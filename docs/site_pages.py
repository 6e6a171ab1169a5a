"""Pages that are written from the code itself: the commands, the figures, the errors."""

from __future__ import annotations

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx reads them."""
    return {"parallel_read_safe": True}
