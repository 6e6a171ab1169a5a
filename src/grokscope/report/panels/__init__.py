"""Panels: what a page shows of a run, each kind in a file of its own, all described by data.

An experiment's spec lists its panels as mappings with a ``kind``; a new kind is a new class here.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from grokscope.report.panels.base import (
    Context,
    Drawing,
    Key,
    NothingToDraw,
    Panel,
    PanelError,
)
from grokscope.report.panels.curves import Curves
from grokscope.report.panels.embedding import Embedding
from grokscope.report.panels.heatmap import HeatMap
from grokscope.report.panels.pictures import Pictures
from grokscope.report.panels.race import Race
from grokscope.report.panels.regions import Regions
from grokscope.report.panels.scatter import Scatter
from grokscope.report.panels.table import ResultTable

__all__ = [
    "PANELS",
    "Context",
    "Drawing",
    "Key",
    "NothingToDraw",
    "Panel",
    "PanelError",
    "panel_from",
    "panel_problems",
]

PANELS: dict[str, type[Panel]] = {
    "curves": Curves,
    "embedding": Embedding,
    "heatmap": HeatMap,
    "pictures": Pictures,
    "race": Race,
    "regions": Regions,
    "scatter": Scatter,
    "table": ResultTable,
}


def panel_from(data: Any) -> Panel:
    """The panel that a mapping of a spec describes.

    Raises:
        PanelError: the kind is unknown or a field is wrong; the message names it.

    Example:
        >>> panel_from({"kind": "curves", "title": "Norm", "columns": ["weight_norm"]}).title
        'Norm'
        >>> panel_from({"kind": "curve"})
        Traceback (most recent call last):
        grokscope.report.panels.base.PanelError: kind: there is no 'curve'; did you mean 'curves'?
    """
    if not isinstance(data, Mapping):
        raise PanelError(f"a panel is a mapping with a kind, not {data!r}")
    kind = data.get("kind")
    if kind not in PANELS:
        near = get_close_matches(str(kind), PANELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PANELS)}"
        raise PanelError(f"kind: there is no {kind!r}; {hint}")
    try:
        return PANELS[kind].model_validate(data)
    except ValidationError as error:
        raise PanelError(*map(_fault, error.errors())) from None


def panel_problems(panels: list[Any]) -> list[str]:
    """What is wrong with the panels of a spec, each with its place; empty where all is well.

    Example:
        >>> panel_problems([{"kind": "heatmap", "results": "distance"}, {"kind": "tabel"}])
        ["panels.1: kind: there is no 'tabel'; did you mean 'table'?"]
    """
    problems = []
    for number, data in enumerate(panels):
        try:
            panel_from(data)
        except PanelError as error:
            problems += [f"panels.{number}: {fault}" for fault in error.faults]
    return problems


def _fault(error: Mapping[str, Any]) -> str:
    field = ".".join(map(str, error["loc"]))
    words = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {words}" if field else words
