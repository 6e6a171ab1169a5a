"""From a panel and a run to what stands on the page: one file for each family of panels.

``grokscope.findings.panels`` describes them; a new kind is a class there and a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grokscope.findings.panels import (
    Curves,
    Embedding,
    HeatMap,
    Panel,
    Pictures,
    Regions,
    ResultTable,
    Scatter,
    TimeToTarget,
)
from grokscope.report.panels.curves import draw_curves
from grokscope.report.panels.drawing import Context, Drawing, Key, NothingToDraw
from grokscope.report.panels.heatmap import draw_heatmap
from grokscope.report.panels.pictures import draw_pictures
from grokscope.report.panels.points import draw_embedding, draw_scatter
from grokscope.report.panels.regions import draw_regions
from grokscope.report.panels.tables import draw_table, draw_time_to_target

__all__ = ["Context", "Drawing", "Key", "NothingToDraw", "draw"]

_DRAWN_BY: dict[type[Panel], Callable[[Any, Context], list[Drawing]]] = {
    Curves: draw_curves,
    Embedding: draw_embedding,
    HeatMap: draw_heatmap,
    Pictures: draw_pictures,
    Regions: draw_regions,
    ResultTable: draw_table,
    Scatter: draw_scatter,
    TimeToTarget: draw_time_to_target,
}


def draw(panel: Panel, context: Context) -> list[Drawing]:
    """What a panel shows of a run.

    Raises:
        NothingToDraw: if the run has not recorded it.
        PanelError: if the panel asks for something that the run does not have.
    """
    return _DRAWN_BY[type(panel)](panel, context)
