"""The plots of a report as files: PDF, PNG or SVG for a paper, CSV for other programs.

matplotlib draws them from the very mapping that plotly.js draws. Only what our panels use is
understood: lines, markers, filled areas and heat maps; linear and logarithmic axes; rectangles and
lines across them; labels.
"""

from __future__ import annotations

import csv
import html
import math
import re
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from grokscope.report.page import drawings_of
from grokscope.report.panels import Drawing
from grokscope.report.plotting import MARKERS, Figure
from grokscope.report.templating import source
from grokscope.runs import Run, RunError

FORMATS = ("pdf", "png", "svg", "csv")
_DPI = 200
# by format, what leaves the date out, so that the same run gives the same bytes
_UNDATED: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
_INCHES = 1 / 96  # of a pixel of the page
_WIDTH = 620
_FONT = 0.75  # points of a pixel
_LINES: dict[str, Any] = {
    "solid": "-",
    "dot": (0, (1, 1.5)),
    "dash": (0, (5, 2.5)),
    "longdash": (0, (9, 3)),
    "dashdot": (0, (6, 2, 1, 2)),
}


def write_figures(run: str | Path, folder: str | Path, file_format: str = "pdf") -> list[Path]:
    """Write each plot of a run's report as a file named for its title.

    They are drawn from the same data as the page's. Tables, pictures and linear regions are no
    plots and are left to the page.

    Args:
        run: a run directory, finished or not.
        folder: where the files go; it is created.
        file_format: "pdf", "png", "svg", or "csv" for the data that are drawn.

    Returns:
        The files, in the order of the page.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: for an unknown format.
        RunError: if the run cannot be read, or the folder cannot be written.
    """
    if file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {', '.join(FORMATS)}: got {file_format!r}")
    drawings = [one for one in drawings_of(Run(run, lenient=True)) if one.figure is not None]
    target = Path(folder)
    written: list[Path] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            path = _free(target, _file_name(drawing.title), file_format, written)
            if file_format == "csv":
                path.write_text(csv_text(drawing), "utf-8")
            else:
                plot_figure(drawing).savefig(path, dpi=_DPI, metadata=_UNDATED[file_format])
            written.append(path)
    except OSError as error:
        raise RunError(
            f"could not write to {target}: {error.strerror or error}; name another folder"
        ) from error
    return written


def _file_name(title: str) -> str:
    """A title as the name of a file.

    Example:
        >>> _file_name("Capacity of each layer: outputs x 0.5")
        'capacity-of-each-layer-outputs-x-0.5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.") or "figure"


def _free(folder: Path, name: str, file_format: str, taken: list[Path]) -> Path:
    """The file of a name, or of the name with a number where a plot before has the same."""
    path, number = folder / f"{name}.{file_format}", 2
    while path in taken:
        path = folder / f"{name}-{number}.{file_format}"
        number += 1
    return path


def csv_text(drawing: Drawing) -> str:
    """The data of a plot as CSV, as the page's button saves them: a row for each point.

    Raises:
        ValueError: if the drawing is no plot.
    """
    if drawing.figure is None:
        raise ValueError(f"{drawing.title!r} is no plot")
    traces, columns = drawing.figure["data"], drawing.figure["layout"]["meta"]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if traces and traces[0]["type"] == "heatmap":
        writer.writerow(columns)
        for values, steps in zip(traces[0]["z"], traces[0]["customdata"], strict=True):
            for value, pair in zip(values, steps, strict=True):
                writer.writerow([*map(_uncounted, pair), value])
        return text.getvalue()
    writer.writerow(["series", *columns])
    for trace in traces:
        half = len(trace["x"]) / 2 if trace.get("fill") else math.inf
        for place, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)):
            end = "" if half == math.inf else ", upper end" if place < half else ", lower end"
            if columns[0] == "step":
                x = _uncounted(trace["customdata"][place])
            more = [html.unescape(trace["customdata"][place])] if len(columns) > 2 else []
            writer.writerow([html.unescape(trace["name"]) + end, x, y, *more])
    return text.getvalue()


def _uncounted(text: str) -> float:
    """The number that a text stands for."""
    value = float(text.replace(",", ""))
    return int(value) if value.is_integer() else value


def plot_figure(drawing: Drawing) -> Any:
    """The plot of a drawing as a matplotlib figure, with its title and its legend.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if the drawing is no plot.
    """
    if drawing.figure is None:
        raise ValueError(f"{drawing.title!r} is no plot")
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures as files need matplotlib: pip install 'grokscope[figures]'"
        ) from error
    layout = drawing.figure["layout"]
    height = layout["height"] + 22 * (2 + (len(drawing.keys) + len(drawing.styles)) // 3)
    canvas = Canvas(figsize=(_WIDTH * _INCHES, height * _INCHES), layout="constrained")
    ax = canvas.add_subplot()
    for trace in drawing.figure["data"]:
        _draw_trace(ax, trace)
    _set_axis(ax, "x", layout["xaxis"])
    _set_axis(ax, "y", layout["yaxis"])
    if layout["yaxis"].get("scaleanchor"):
        hidden = layout["xaxis"].get("visible") is False
        ax.set_aspect("equal", adjustable="datalim" if hidden else "box")
    for shape in layout["shapes"]:
        _draw_shape(ax, shape)
    for note in layout["annotations"]:
        _draw_annotation(ax, note, layout)
    _finish(canvas, ax, drawing)
    return canvas


@cache
def _palette() -> dict[str, str]:
    """The page's colors by name, of its light theme, which comes first in the style sheet."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"--([a-z]+\d*): (#[0-9a-f]{6});", source("report.css")):
        found.setdefault(name, value)
    return found


def _color(name: str) -> Any:
    """A color of a figure for matplotlib: "@arm0", "@ink/0.2", or as it is."""
    if not name.startswith("@"):
        return name
    key, _, opacity = name[1:].partition("/")
    if key == "clear":
        return "none"
    return (_palette()[key], float(opacity)) if opacity else _palette()[key]


def _draw_trace(ax: Any, trace: dict[str, Any]) -> None:
    if trace["type"] == "heatmap":
        _draw_heat(ax, trace)
        return
    x, y = (np.array(trace[axis], dtype=np.float64) for axis in ("x", "y"))
    mode = trace["mode"]
    if trace.get("fill") == "toself":
        ax.fill(x, y, color=_color(trace["fillcolor"]), linewidth=0)
    marks: dict[str, Any] = {}
    if "markers" in mode:
        marks = _marker(trace["marker"])
        shown = trace["marker"].get("maxdisplayed") or len(x)
        marks["markevery"] = max(1, math.ceil(len(x) / shown))
    line = trace.get("line") if "lines" in mode else None
    if line or marks:
        look: dict[str, Any] = {"linestyle": "none"}
        if line:
            look = {
                "linestyle": _LINES[line.get("dash", "solid")],
                "linewidth": _FONT * line["width"],
            }
        color = line["color"] if line else trace["marker"]["color"]
        ax.plot(x, y, color=_color(color), **look, **marks)


def _marker(marker: dict[str, Any]) -> dict[str, Any]:
    """A marker of a figure, or of a legend, for matplotlib."""
    return {
        "marker": list(MARKERS[marker.get("symbol", "circle")]),
        "markersize": _FONT * marker["size"],
        "markerfacecolor": _color(marker["color"]),
        "markeredgewidth": 0,
    }


def _draw_heat(ax: Any, trace: dict[str, Any]) -> None:
    values = np.array(trace["z"], dtype=np.float64)
    look: dict[str, Any] = {}
    if (rows := trace.get("y")) is not None:  # as far apart as they are, from edge to edge
        half = (rows[-1] - rows[0]) / max(1, len(rows) - 1) / 2 or 0.5
        ends = (-0.5, values.shape[1] - 0.5, rows[0] - half, rows[-1] + half)
        look = {"extent": ends, "aspect": "auto"}
    image = ax.imshow(
        values,
        **look,
        origin="lower",
        cmap=str(trace["colorscale"]).lower(),
        vmin=trace["zmin"],
        vmax=trace["zmax"],
        interpolation="nearest",
    )
    label = html.unescape(trace["colorbar"]["title"]["text"])
    ax.figure.colorbar(image, ax=ax, label=label)


def _set_axis(ax: Any, which: str, axis: dict[str, Any]) -> None:
    if axis.get("visible") is False:
        ax.set_axis_off()
        return
    side = ax.xaxis if which == "x" else ax.yaxis
    logarithmic = axis.get("type") == "log"
    if logarithmic:
        getattr(ax, f"set_{which}scale")("log")
        side.set_minor_formatter("")
    if axis.get("tickvals") is not None:
        side.set_ticks(axis["tickvals"], [html.unescape(text) for text in axis["ticktext"]])
    elif axis.get("tickformat") == ".0%":
        side.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    if axis.get("range"):
        ends = [10**end for end in axis["range"]] if logarithmic else axis["range"]
        getattr(ax, f"set_{which}lim")(*ends)
    if axis.get("title"):
        side.set_label_text(html.unescape(axis["title"]["text"]))
    if axis.get("showgrid", True):
        ax.grid(visible=True, axis=which, color=_palette()["grid"], linewidth=0.6)
        ax.set_axisbelow(True)


def _draw_shape(ax: Any, shape: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    transform = _transform(ax, shape.get("xref", "x"), shape.get("yref", "y"))
    if shape["type"] == "path":
        _draw_outline(ax, shape, transform)
        return
    (x0, x1), (y0, y1) = (shape["x0"], shape["x1"]), (shape["y0"], shape["y1"])
    line = shape["line"]
    if shape["type"] == "rect":
        place: dict[str, Any] = {
            "transform": transform,
            "clip_on": y1 <= 1,
            "linewidth": line["width"],
        }
        fill = _color(shape["fillcolor"])
        layer = 0.5 if shape.get("layer") == "below" else 2
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=fill, zorder=layer, **place))
        return
    look: dict[str, Any] = {
        "linestyle": _LINES[line.get("dash", "solid")],
        "linewidth": _FONT * line["width"],
    }
    limits = ax.get_xlim(), ax.get_ylim()
    ax.plot([x0, x1], [y0, y1], color=_color(line["color"]), transform=transform, **look)
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])


def _draw_outline(ax: Any, shape: dict[str, Any], transform: Any) -> None:
    """A marker of pixels around an anchor."""
    from matplotlib.patches import Polygon
    from matplotlib.transforms import Affine2D, ScaledTranslation

    points = [tuple(map(float, point.split(","))) for point in shape["path"][1:-1].split("L")]
    pixels = Affine2D().scale(_INCHES) + ax.figure.dpi_scale_trans
    place = pixels + ScaledTranslation(shape["xanchor"], shape["yanchor"], transform)
    color = _color(shape["fillcolor"])
    ax.add_patch(Polygon(points, facecolor=color, linewidth=0, transform=place, clip_on=False))


def _draw_annotation(ax: Any, note: dict[str, Any], layout: Figure) -> None:
    xref, yref = note.get("xref", "x"), note.get("yref", "y")
    # plotly places notes on a logarithmic axis by the exponent
    x = 10 ** note["x"] if xref == "x" and layout["xaxis"].get("type") == "log" else note["x"]
    y = 10 ** note["y"] if yref == "y" and layout["yaxis"].get("type") == "log" else note["y"]
    ax.annotate(
        html.unescape(note["text"]),
        (x, y),
        xycoords=_transform(ax, xref, yref),
        xytext=(_FONT * note.get("xshift", 0), _FONT * note.get("yshift", 0)),
        textcoords="offset points",
        ha=note.get("xanchor", "center"),
        va={"middle": "center"}.get(note.get("yanchor", "middle"), note.get("yanchor", "center")),
        color=_color(note["font"]["color"]),
        fontsize=_FONT * note["font"]["size"],
        annotation_clip=False,
    )


def _transform(ax: Any, xref: str, yref: str) -> Any:
    """Coordinates of the data, or of the frame where plotly says "paper", for each direction."""
    from matplotlib.transforms import blended_transform_factory

    x = ax.transAxes if xref == "paper" else ax.transData
    y = ax.transAxes if yref == "paper" else ax.transData
    return x if xref == yref.replace("y", "x") else blended_transform_factory(x, y)


def _finish(canvas: Any, ax: Any, drawing: Drawing) -> None:
    """Title, frame, fonts and the legend under the plot."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    canvas.suptitle(drawing.title, fontsize=11, x=0.02, ha="left")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8, colors=_palette()["muted"])
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(fontsize=9, color=_palette()["muted"])
    handles: list[Any] = [
        Line2D(
            [],
            [],
            color=_color(key.color),
            linewidth=1.8,
            linestyle=_LINES[key.dash] if key.dash else "none",
            label=key.label,
            **(
                _marker({"symbol": key.marker, "size": 8, "color": key.color}) if key.marker else {}
            ),
        )
        for key in drawing.keys
    ]
    for label, look in drawing.styles:
        if look == "band":
            handles.append(Patch(color=_palette()["muted"], alpha=0.3, label=label))
        else:
            line: dict[str, Any] = {"linestyle": _LINES[look], "color": _palette()["ink"]}
            handles.append(Line2D([], [], linewidth=1.5, label=label, **line))
    if handles:
        columns = min(len(handles), 5 if max(len(h.get_label()) for h in handles) < 14 else 3)
        canvas.legend(
            handles=handles, loc="outside lower left", ncols=columns, fontsize=8, frameon=False
        )
