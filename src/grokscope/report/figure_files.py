"""The plots of a report as files for a paper: PDF, PNG or SVG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from grokscope.report.figure_plot import plot_figure
from grokscope.report.page import drawings_of
from grokscope.report.subject import open_subject
from grokscope.runs import RunError

FORMATS = ("pdf", "png", "svg")
_DPI = 200


def write_figures(run: str | Path, folder: str | Path, file_format: str = "pdf") -> list[Path]:
    """Write each plot of a run's report as a file named for its title.

    They are drawn from the same data as the page's. Tables, pictures and linear regions are no
    plots and are left to the page.

    Args:
        run: a run directory, finished or not.
        folder: where the files go; it is created.
        file_format: "pdf", "png" or "svg".

    Returns:
        The files, in the order of the page.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: an unknown format.
        RunError: the run cannot be read, or the folder cannot be written.
    """
    if file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {', '.join(FORMATS)}: got {file_format!r}")
    drawings = [one for one in drawings_of(open_subject(Path(run))) if one.figure is not None]
    target = Path(folder)
    written: list[Path] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            path = _free(target, _file_name(drawing.title), file_format, written)
            plot_figure(drawing).savefig(path, dpi=_DPI, metadata=_metadata(file_format))
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


def _metadata(file_format: str) -> dict[str, Any]:
    """Without the date, so that the same run gives the same bytes."""
    return {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[file_format]
