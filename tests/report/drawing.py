"""Panels drawn for a test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from grokscope.findings.panels import panel_from
from grokscope.findings.summary import run_summary
from grokscope.report import panels
from grokscope.report.panels import Context, Drawing
from grokscope.runs import Run


def context(path: Path, **options: Any) -> Context:
    run = Run(path, lenient=True)
    colors = {arm: place for place, arm in enumerate(run.arms)}
    return Context(run, run_summary(run), colors, **options)


def draw(path: Path, **panel: Any) -> list[Drawing]:
    return panels.draw(panel_from(panel), context(path))


def figure_of(drawing: Drawing) -> dict[str, Any]:
    """A figure as plotly accepts it, its colors resolved as the page does."""
    assert drawing.figure is not None
    text = re.sub(r'"@\w+(/[\d.]+)?"', '"rgba(1, 2, 3, 0.5)"', json.dumps(drawing.figure))
    figure = json.loads(text)
    go.Figure(figure)  # raises on any field that plotly does not know
    return dict(figure)
