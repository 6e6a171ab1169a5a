"""What a panel is drawn from, and what it gives the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from grokscope.findings.panels import PanelError
from grokscope.findings.summary import RunSummary
from grokscope.report.plotting import Figure, arm_color
from grokscope.runs import Run


class NothingToDraw(PanelError):
    """The run has not recorded what the panel shows."""


@dataclass(frozen=True)
class Key:
    """An entry of a plot's legend; pressing it hides and shows everything named ``target``.

    Without a ``dash`` it is a marker alone, without a ``marker`` a line.
    """

    label: str
    color: str
    target: str
    marker: str | None = None
    dash: str | None = "solid"


@dataclass(frozen=True)
class Drawing:
    """One thing on the page: a plot (``figure``), or ready HTML with the data its script reads.

    ``caption`` says what it shows and what to look for; ``alt`` says in words what it shows in
    this run; ``styles`` explains the dashes of the lines; ``reader`` names the part of the script
    that reads ``data``.
    """

    title: str
    caption: str = ""
    figure: Figure | None = None
    html: Markup | None = None
    data: dict[str, Any] | None = None
    keys: tuple[Key, ...] = ()
    styles: tuple[tuple[str, str], ...] = ()
    alt: str = ""
    reader: str = "pictures"
    wide: bool = False


@dataclass(frozen=True)
class Context:
    """The run that a panel draws, the color of each arm, and how many bytes pictures may take.

    ``region_bytes`` is what pictures of linear regions may take, compressed.
    """

    run: Run
    summary: RunSummary
    colors: Mapping[str, int]
    picture_bytes: int = 2_000_000
    region_bytes: int = 1_700_000

    def color(self, arm: str, opacity: float | None = None) -> str:
        """The name of an arm's color."""
        return arm_color(self.place(arm), opacity)

    def place(self, arm: str) -> int:
        """The number of an arm on the page, which its marker and its dash go by."""
        return self.colors.get(arm, 0)

    def arms(self, wanted: list[str] | None) -> list[str]:
        """The arms that have rows, of those that are wanted.

        Raises:
            PanelError: if a wanted arm is not one of the run's.
        """
        for arm in wanted or []:
            if arm not in self.run.arms:
                raise PanelError(
                    f"arms: this run has no arm {arm!r}; it has {', '.join(self.run.arms)}"
                )
        return [
            arm
            for arm in self.run.arms
            if (wanted is None or arm in wanted) and any(len(h) for h in self.run.histories_of(arm))
        ]

    def result(self, path: str) -> Any:
        """A value of results.json by its dotted name.

        Raises:
            NothingToDraw: if there is none of that name.
        """
        value: Any = self.run.results
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise NothingToDraw(f"results.json has no {path!r}")
            value = value[part]
        return value
