"""Panels: what a report shows of a run, as a spec describes them.

A panel is data: a ``kind``, words, and the fields of its kind. A spec is checked with its panels
before training; ``grokscope.report`` draws them from the run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from grokscope.findings.sections import Strict
from grokscope.findings.target import TimeSection

Scale = Literal["linear", "log"]


class Panel(Strict):
    """What all panels have.

    Attributes:
        kind: which panel this is.
        title: its heading.
        caption: a sentence or two: what it shows, what to look for.
        wide: whether it takes the whole width of the page.
    """

    kind: str
    title: str
    caption: str = ""
    wide: bool = False


class FixedSpan(Strict):
    """An interval of training steps to shade."""

    start: float
    end: float
    label: str = ""


class ResultSpans(Strict):
    """Intervals of training steps that the experiment computed.

    Attributes:
        results: dotted name in results.json of a mapping from arms to ``start`` and ``end``.
        label: what each is called, after the arm's title.
    """

    results: str
    label: str = ""


class Curves(Panel):
    """Columns of the metrics against logarithmic steps, a line for each arm and column.

    Attributes:
        columns: the columns, or a mapping from each to its label; the first is drawn solid.
        results: where the columns are instead of in the metrics: a dotted name in results.json of a
            mapping from arms to ``steps`` and the columns, lists of equal length.
        arms: the arms to show; all by default.
        color_by: ``arm`` for one plot in the arms' colors; ``column`` for a plot for each arm,
            its columns in one perceptual scale, as for layers.
        band: ``range`` shades from NAME_min to NAME_max, the extremes over the probe points;
            ``deviation`` one standard deviation up and down: the column NAME_deviation, or where
            there is none, of several seeds the standard deviation among them.
        y_title: label of the vertical axis.
        y_scale: ``linear`` or ``log``.
        y_range: ends of the vertical axis.
        percent: whether values are fractions to show as per cent.
        spans: ``delay`` shades from memorization to generalization for each arm; ``onset`` from
            start to end of delayed generalization, as ``grokscope.onset`` has them; a list of
            spans; or ``results``, a name in results.json of a mapping from arms to ``start`` and
            ``end``, with their ``label``.
        reference: a value to mark by a horizontal line, with ``reference_label``.
    """

    kind: Literal["curves"]
    columns: dict[str, str]
    results: str | None = None
    arms: list[str] | None = None
    color_by: Literal["arm", "column"] = "arm"
    band: Literal["none", "range", "deviation"] = "none"
    y_title: str = ""
    y_scale: Scale = "linear"
    y_range: tuple[float, float] | None = None
    percent: bool = False
    spans: Literal["none", "delay", "onset"] | list[FixedSpan] | ResultSpans = "none"
    reference: float | None = None
    reference_label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _label_columns(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("columns"), list):
            names = {name: str(name).replace("_", " ") for name in data["columns"]}
            return {**data, "columns": names}
        return data

    @model_validator(mode="after")
    def _fits_a_log_axis(self) -> Curves:
        values = [*(self.y_range or ()), *([] if self.reference is None else [self.reference])]
        if self.y_scale == "log" and any(value <= 0 for value in values):
            raise ValueError("y_range and reference must be above 0 where y_scale is log")
        return self


class Embedding(Panel):
    """Points in the plane in the colors of their classes, a plot for each arm and step.

    Attributes:
        arrays: name of the stored tensors of each arm: ``steps`` (s,), ``points`` (s, n, 2) and
            ``y`` (n,). Ten classes have a color each, more share them.
        arms: the arms to show; all by default.
    """

    kind: Literal["embedding"]
    title: str = "Representation"
    arrays: str = "embedding"
    arms: list[str] | None = None


class HeatMap(Panel):
    """A matrix over steps, a plot for each arm: of pairs of steps, or of steps and other rows.

    The steps of a log schedule stand side by side at equal widths, so that the axes are
    logarithmic in training; ticks are labeled with the steps.

    Attributes:
        results: dotted name in results.json of ``{"steps": [...], "matrix": [[...]]}``, or of a
            mapping from each arm to one.
        arrays: name of the stored tensors of each arm, instead of ``results``; they hold
            ``steps`` (s,) and the matrix (s, s), or with ``rows`` (r, s), under ``key``.
        key: name of the matrix.
        rows: where its rows are not the steps too: name of what they are, such as frequencies,
            numbers (r,) that rise by the same amount, beside the matrix.
        arms: the arms to show; all by default.
        value: what the color means.
        mark: lines at the steps of memorization (dotted) and generalization (solid) of the arm, by
            the ``milestones`` of the spec; or at which delayed generalization started (dotted) and
            ended (solid), its ``onset``, also where the spec has no such milestone; or ``none``.
    """

    kind: Literal["heatmap"]
    title: str = "Distance between pairs of steps"
    results: str | None = None
    arrays: str | None = None
    key: str = "matrix"
    rows: str | None = None
    arms: list[str] | None = None
    value: str = "distance"
    mark: Literal["milestones", "onset", "none"] = "milestones"

    @model_validator(mode="after")
    def _has_one_source(self) -> HeatMap:
        if (self.results is None) == (self.arrays is None):
            raise ValueError("give results or arrays, one of them")
        return self


class Pictures(Panel):
    """A row of pictures for each arm at the step of a slider, beneath the points they belong to.

    A picture has one channel, drawn in ink from zero (the other color below zero), or three,
    drawn as red, green and blue, around grey where values are negative. Each is scaled to its own
    largest value. With several seeds the first is shown.

    Attributes:
        key: name of the pictures (m, [1 | 3,] height, width) in the tensors stored at each step.
        beside: name of the stored tensors with the points themselves, as ``x`` and ``y``; an empty
            name leaves them out.
        beside_title: what the points are called.
        arms: the arms to show; all by default.
        points: at most this many points.
    """

    kind: Literal["pictures"]
    title: str = "Pictures over training"
    wide: bool = True
    key: str = "centroids"
    beside: str = "probe"
    beside_title: str = "The image itself"
    arms: list[str] | None = None
    points: int = 8


class Regions(Panel):
    """The linear regions of a slice for each arm at the step of a slider.

    It reads what the analysis ``regions`` stores. Regions are colored by the norm of their
    operator; under each slice stand its points with their centroids, the rows of their labels in
    the Jacobian, and the regions close to them. With several seeds the first is shown. Where all
    frames together would take too much of the page, they are thinned evenly.

    Attributes:
        slice: number of the slice.
        arms: the arms to show; all by default.
        value: what the color means.
    """

    kind: Literal["regions"]
    title: str = "A slice through input space"
    wide: bool = True
    slice: int = 0
    arms: list[str] | None = None
    value: str = "operator norm"


class Scatter(Panel):
    """One computed value against another, a point for each row, a color and shape for each series.

    Attributes:
        results: dotted name in results.json of a list of mappings, a point for each.
        x: field on the horizontal axis.
        y: field on the vertical axis.
        series: field that tells series apart; None for a single one.
        label: field that names a point where it is pointed at.
        connect: whether a line joins the points of a series, from left to right.
        x_title: label of the horizontal axis; the field's name by default.
        y_title: label of the vertical axis.
        x_scale: ``linear`` or ``log``; a log axis leaves out what is not above 0.
        y_scale: the same for the vertical axis.
    """

    kind: Literal["scatter"]
    title: str = "One value against another"
    results: str
    x: str
    y: str
    series: str | None = None
    label: str | None = None
    connect: bool = False
    x_title: str = ""
    y_title: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"


class ResultTable(Panel):
    """Rows of results.json as a table.

    Attributes:
        results: dotted name of a list of mappings, one for each row; or of a mapping from each
            row's name to one; or of a mapping from names to single values.
        columns: the fields to show, or a mapping from each to its heading; all by default.
        row_title: heading of the rows' names, where they have names.
        percent: the fields that are fractions, to show as per cent.
    """

    kind: Literal["table"]
    title: str = "Results"
    results: str
    columns: dict[str, str] | list[str] | None = None
    row_title: str = ""
    percent: tuple[str, ...] = ()


class Published(Strict):
    """A paper's speedup of an arm: in steps, in time, and in time since ``since``."""

    steps: float | None = None
    seconds: float | None = None
    since: float | None = None


class TimeToTarget(TimeSection, Panel):
    """Steps and training time to a target as a table, each arm against the baseline by seed.

    Attributes:
        metric: what has the target.
        target: what it has to reach.
        since: also the time from where the metric first has reached this.
        baseline: the arm that the others are compared with.
        arms: the arms to show; all by default.
        published: speedups in a paper to stand beside ours, by arm.
    """

    kind: Literal["time_to_target"]
    title: str = "Time to target"
    baseline: str = "baseline"
    arms: list[str] | None = None
    published: dict[str, Published] = Field(default_factory=dict)
    wide: bool = True


PanelSpec = Annotated[
    Curves | Embedding | HeatMap | Pictures | Regions | ResultTable | Scatter | TimeToTarget,
    Field(discriminator="kind"),
]

PANELS: dict[str, type[Panel]] = {
    get_args(member.model_fields["kind"].annotation)[0]: member
    for member in get_args(get_args(PanelSpec)[0])
}


class PanelError(ValueError):
    """A panel is described wrongly, or asks for what the run does not have."""


def panel_from(data: Any) -> Panel:
    """Read a panel from the mapping that describes it, as in the spec of a run directory.

    Raises:
        PanelError: if the kind is unknown or a field is wrong; the message names all of them.

    Example:
        >>> panel_from({"kind": "curves", "title": "Norm", "columns": ["weight_norm"]}).title
        'Norm'
        >>> panel_from({"kind": "curve"})
        Traceback (most recent call last):
        grokscope.findings.panels.PanelError: kind: there is no 'curve'; did you mean 'curves'?
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
        raise PanelError("; ".join(map(_fault, error.errors()))) from None


def _fault(error: Mapping[str, Any]) -> str:
    field = ".".join(map(str, error["loc"]))
    words = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {words}" if field else words
