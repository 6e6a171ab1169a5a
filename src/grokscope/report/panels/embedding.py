"""Points in the plane in the colours of their classes, as of a layer's representation by UMAP."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from grokscope.report.panels.base import Context, Drawing, Key, NothingToDraw, Panel, PanelError
from grokscope.report.plotting import Figure, layout, numbers
from grokscope.report.wording import count

# Okabe and Ito's colours, which people who see few colours can tell apart, and three more.
_COLOURS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#8c8c8c",
    "#7a4a1e",
    "#7d5fb2",
)


class Embedding(Panel):
    """Classes in a plane at chosen steps, a plot for each arm and step.

    Attributes:
        arrays: name of the stored tensors of each arm: ``steps`` (s,), ``points`` (s, n, 2) and
            ``y`` (n,), of at most ten classes each in a colour of its own, more share them.
        arms: the arms to show; all by default.
    """

    kind: Literal["embedding"]
    title: str = "Representation"
    arrays: str = "embedding"
    arms: list[str] | None = None

    def draw(self, context: Context) -> list[Drawing]:
        """A plot for each arm and step."""
        drawings = []
        for arm in context.arms(self.arms):
            seed = context.subject.seeds(arm)[0]
            stored = context.subject.run.arrays(arm, seed, self.arrays)
            if stored is None:
                continue
            if not {"steps", "points", "y"} <= set(stored):
                raise PanelError(f"arrays: {self.arrays} of {arm} needs steps, points and y")
            points, y = np.asarray(stored["points"], dtype=np.float64), np.asarray(stored["y"])
            for step, places in zip(stored["steps"].tolist(), points, strict=True):
                drawings.append(self._plot(context, arm, int(step), places, y))
        if not drawings:
            why = context.subject.results.get("no_embedding")
            raise NothingToDraw(why or f"no arm of this run has stored {self.arrays}")
        return drawings

    def _plot(self, context: Context, arm: str, step: int, points: Any, y: Any) -> Drawing:
        title = f"{self.title}: {context.subject.arm_title(arm)}, step {count(step)}"
        bare = {"visible": False, "automargin": False}
        figure: Figure = {"data": [], "layout": layout(bare, {**bare, "scaleanchor": "x"})}
        classes = sorted(set(y.tolist()))
        for label in classes:
            own = points[y == label]
            figure["data"].append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"class {label}",
                    "meta": f"class {label}",
                    "x": numbers(own[:, 0]),
                    "y": numbers(own[:, 1]),
                    "marker": {"size": 5, "color": _COLOURS[label % len(_COLOURS)]},
                    "hovertemplate": "%{fullData.name}<extra></extra>",
                }
            )
        return Drawing(
            title=title,
            look_for=self.look_for,
            figure=figure,
            keys=tuple(
                Key(f"{label}", _COLOURS[label % len(_COLOURS)], f"class {label}")
                for label in classes
            ),
            alt=f"{title}. {len(points)} points of {len(classes)} classes.",
            wide=self.wide,
        )
