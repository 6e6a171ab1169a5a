"""Points of computed figures, and spans that an experiment computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grokscope.findings.panels import PanelError
from grokscope.report.panels import NothingToDraw
from grokscope.runs import RunDirectory
from tests.report import made_up_runs
from tests.report.drawing import draw, figure_of

POINTS = [
    {"arm": "grokalign", "scaled": "weights", "norm": 4.0, "rate": 0.5},
    {"arm": "baseline", "scaled": "weights", "norm": 0.25, "rate": 8.0},
    {"arm": "baseline", "scaled": "outputs", "norm": 1.0, "rate": 0.0},
    {"arm": "grokalign", "scaled": "outputs", "norm": 3.0, "rate": 2.0},
    {"arm": "grokalign", "scaled": "outputs", "norm": 2.0, "rate": None},
]
SPANS = {"grokalign": {"start": 30.0, "end": 800.0}}
PANEL = {"kind": "scatter", "results": "points", "x": "norm", "y": "rate"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    directory = RunDirectory.resume(path, "cpu")
    directory.write_results({"points": POINTS, "spans": SPANS, "broken": {"baseline": 3}})
    directory.close("finished")
    return path


def test_each_series_has_its_points_from_left_to_right(run: Path) -> None:
    (drawing,) = draw(run, **PANEL, series="scaled", label="arm", connect=True)
    weights, outputs = figure_of(drawing)["data"]
    assert (weights["x"], weights["y"]) == ([0.25, 4.0], [8.0, 0.5])
    assert (outputs["x"], outputs["y"]) == ([1.0, 3.0], [0.0, 2.0])
    assert weights["customdata"] == ["Weight decay alone", "GrokAlign"]
    assert weights["marker"]["symbol"] != outputs["marker"]["symbol"]
    assert [key.label for key in drawing.keys] == ["weights", "outputs"]
    assert drawing.alt.endswith(
        "weights: 2 points from (0.25, 8) to (4, 0.5); outputs: 2 points from (1, 0) to (3, 2)."
    )


def test_a_log_axis_leaves_out_what_is_not_above_zero(run: Path) -> None:
    (drawing,) = draw(run, **PANEL, y_scale="log", y_title="rate & more")
    figure = figure_of(drawing)
    assert figure["data"][0]["x"] == [0.25, 3.0, 4.0]
    assert figure["layout"]["yaxis"]["title"]["text"] == "rate &amp; more"
    assert drawing.keys == ()


def test_series_named_after_arms_have_their_colors(run: Path) -> None:
    (drawing,) = draw(run, **PANEL, series="arm")
    assert {key.label: key.color for key in drawing.keys} == {
        "GrokAlign": "@arm1",
        "Weight decay alone": "@arm0",
    }


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"results": "missing"}, NothingToDraw, "no 'missing'"),
        ({"results": "spans"}, PanelError, "spans is no list of mappings"),
        ({"y": "ratio"}, PanelError, "a row without 'ratio'; it has arm, scaled, norm, rate"),
        ({"y": "scaled"}, NothingToDraw, "no points of norm and scaled"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    run: Path, changes: dict[str, Any], kind: type[PanelError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        draw(run, **{**PANEL, **changes})


def test_computed_spans_are_shaded_for_the_arms_that_have_one(run: Path) -> None:
    spans = {"results": "spans", "label": "feature learning"}
    (drawing,) = draw(run, kind="curves", title="A", columns=["test_accuracy"], spans=spans)
    layout = figure_of(drawing)["layout"]
    assert {(s["name"], s["x0"], s["x1"]) for s in layout["shapes"]} == {("grokalign", 30, 800)}
    texts = [note["text"] for note in layout["annotations"]]
    assert "GrokAlign: feature learning" in texts


def test_spans_of_an_experiment_that_has_not_ended_are_left_out(tmp_path: Path) -> None:
    path = made_up_runs.killed(tmp_path / "run")
    (drawing,) = draw(
        path, kind="curves", title="A", columns=["test_accuracy"], spans={"results": "spans"}
    )
    assert figure_of(drawing)["layout"]["shapes"] == []


def test_spans_without_ends_are_refused(run: Path) -> None:
    with pytest.raises(PanelError, match=r"broken\.baseline in results\.json needs start and end"):
        draw(run, kind="curves", title="A", columns=["test_accuracy"], spans={"results": "broken"})
