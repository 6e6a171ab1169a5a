"""Plots as files hold what the page's plots hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from grokscope.findings.panels import PanelError
from grokscope.report import write_figures
from grokscope.report.figure_files import csv_text, plot_figure
from grokscope.report.panels import Drawing
from grokscope.runs import RunDirectory, RunError
from tests.cli.running import grokscope
from tests.report import made_up_runs
from tests.report.drawing import draw


def axes(drawing: Drawing) -> object:
    return plot_figure(drawing).axes[0]


def test_lines_bands_and_spans_stand_where_the_page_has_them(runs: Path) -> None:
    (drawing,) = draw(
        runs / "three-seeds",
        kind="curves",
        title="Accuracy",
        columns={"test_accuracy": "test", "train_accuracy": "training"},
        band="deviation",
        percent=True,
        y_range=[0, 1.02],
        spans="delay",
    )
    ax = axes(drawing)
    traces = drawing.figure["data"]
    lines = [trace for trace in traces if trace["mode"] != "none"]
    assert len(ax.lines) == len(lines) == 16  # 2 arms, 2 columns, 3 seeds and their median
    for drawn, trace in zip(ax.lines, lines, strict=True):
        assert drawn.get_xdata() == pytest.approx(trace["x"])
        assert drawn.get_ydata() == pytest.approx(trace["y"])
    bands = [trace for trace in traces if trace["mode"] == "none"]
    rectangles = drawing.figure["layout"]["shapes"]
    assert len(ax.patches) == len(bands) + len(rectangles) == 8
    shaded = {round(patch.get_x()) for patch in ax.patches[len(bands) :]}
    assert shaded == {round(shape["x0"]) for shape in rectangles}
    assert ax.get_xscale() == "log"
    assert ax.get_ylim() == pytest.approx((0, 1.02))
    assert "training step" in ax.get_xlabel()
    legend = ax.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "Weight decay alone",
        "GrokAlign",
        "test",
        "training",
        "mean plus and minus a standard deviation",
    ]


def test_a_heat_map_has_its_matrix_and_its_steps(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    matrix = np.abs(np.subtract.outer(np.arange(4), np.arange(4))) / 4
    with RunDirectory.resume(path, "cpu") as writer:
        kernel = {"steps": [0, 10, 100, 1000], "matrix": matrix.tolist()}
        writer.write_results({"kernel": {"baseline": kernel}})
    (drawing,) = draw(path, kind="heatmap", title="Kernels", results="kernel", mark="none")
    ax = axes(drawing)
    assert np.allclose(ax.images[0].get_array(), matrix)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "10", "100", "1k"]


def test_a_heat_map_of_other_rows_has_them_on_its_axis(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    spectrum = {"steps": [0, 10, 100], "frequency": [2, 4], "matrix": [[0, 1, 2], [0, 1, 7]]}
    with RunDirectory.resume(path, "cpu") as writer:
        writer.write_results({"spectrum": {"baseline": spectrum}})
    (drawing,) = draw(path, kind="heatmap", title="S", results="spectrum", rows="frequency")
    ax = axes(drawing)
    assert ax.images[0].get_extent() == [-0.5, 2.5, 1, 5]
    assert ax.get_ylim() == (1, 5)
    assert csv_text(drawing).splitlines()[:2] == ["step,frequency,distance", "0,2,0.0"]


def test_files_are_named_for_their_titles_and_come_out_the_same(runs: Path, tmp_path: Path) -> None:
    first = write_figures(runs / "finished", tmp_path / "a", "pdf")
    again = write_figures(runs / "finished", tmp_path / "b", "pdf")
    assert [path.name for path in first][:2] == ["accuracy.pdf", "loss.pdf"]
    assert len(set(first)) == len(first)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"%PDF")


def test_the_command_line_writes_them_beside_the_page(runs: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    options = ["--out", str(page), "--figures", str(figures), "--format", "png"]
    done = grokscope("report", str(runs / "never"), *options, folder=tmp_path)
    assert done.returncode == 0
    assert page.exists()
    assert (figures / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of pdf, png, svg, csv: got 'eps'"):
        write_figures(runs / "never", tmp_path, "eps")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not write"):
        write_figures(runs / "never", tmp_path / "file" / "figures")


def test_without_matplotlib_the_extra_is_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'grokscope\[figures\]'"):
        write_figures(runs / "never", tmp_path)


def test_a_panel_of_results_needs_equal_columns(runs: Path, tmp_path: Path) -> None:
    from grokscope.runs import RunDirectory

    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    with RunDirectory.resume(path, "cpu") as writer:
        writer.write_results({"p": {"baseline": {"steps": [0, 1], "mean": [0.5]}}})
    with pytest.raises(PanelError, match=r"p\.baseline needs steps and columns of the same length"):
        draw(path, kind="curves", title="P", results="p", columns=["mean"])
