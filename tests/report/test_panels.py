from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grokscope.experiments import SpecError, load_experiment
from grokscope.findings.panels import PanelError, panel_from
from grokscope.report import panels
from grokscope.report.default_panels import DEFAULT_PANELS
from grokscope.report.panels import NothingToDraw
from grokscope.runs import Run, RunDirectory
from tests.report import made_up_runs
from tests.report.drawing import context, draw, figure_of


@pytest.fixture
def with_results(tmp_path: Path) -> Path:
    """A finished run with values computed after training."""
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    steps = [0, 1, 3, 10, 30, 100, 300, 1000, 3000]
    place = np.arange(len(steps))
    matrix = np.abs(place[:, None] - place[None, :]) / len(steps)
    kernel = {"steps": steps, "matrix": matrix.tolist()}
    results = {
        "kernel": {"baseline": kernel, "grokalign": kernel},
        "theorems": [
            {"theorem": "Theorem 4", "deviation": 1.2e-9, "holds": True},
            {"theorem": "<script>alert(1)</script>", "deviation": None, "holds": False},
        ],
        "probe": {"baseline": {"accuracy": 0.5, "repeats": 10}, "grokalign": {"accuracy": 0.625}},
        "single": {"alpha": 0.5},
    }
    run = RunDirectory.resume(path, "cpu")
    run.write_results(results)
    run.close("finished")
    return path


@pytest.mark.parametrize("name", ["finished", "three-seeds", "never", "killed"])
def test_every_default_panel_is_a_figure_that_plotly_accepts(runs: Path, name: str) -> None:
    drawn = 0
    for data in DEFAULT_PANELS:
        try:
            drawings = panels.draw(panel_from(data), context(runs / name))
        except NothingToDraw:
            continue
        for drawing in drawings:
            assert drawing.caption
            if drawing.figure is not None:
                assert drawing.alt
                figure_of(drawing)
        drawn += len(drawings)
    assert drawn >= 7


def test_curves_have_the_rows_with_step_0_before_the_first(runs: Path) -> None:
    (drawing,) = draw(runs / "finished", kind="curves", title="A", columns=["test_accuracy"])
    figure = figure_of(drawing)
    baseline = figure["data"][0]
    history = Run(runs / "finished").histories["baseline", 0]
    assert baseline["y"] == pytest.approx(history["test_accuracy"].tolist(), rel=1e-5)
    assert baseline["x"] == [0.4, *history.steps.tolist()[1:]]
    assert baseline["customdata"][0] == "0"
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["0"]
    assert [key.label for key in drawing.keys] == ["Weight decay alone", "GrokAlign"]


def test_the_delay_of_each_arm_is_shaded_from_memorized_to_generalized(runs: Path) -> None:
    (drawing,) = draw(
        runs / "finished", kind="curves", title="A", columns=["test_accuracy"], spans="delay"
    )
    layout = figure_of(drawing)["layout"]
    spans = {(shape["name"], shape["x0"], shape["x1"]) for shape in layout["shapes"]}
    assert spans == {("baseline", 383, 12115), ("grokalign", 316, 1212)}
    texts = [note["text"] for note in layout["annotations"]]
    assert texts[1:] == ["delay: 11,732 steps", "delay: 896 steps"]


def test_a_delay_without_end_is_shaded_to_the_end_and_called_so(runs: Path) -> None:
    (drawing,) = draw(
        runs / "never", kind="curves", title="A", columns=["test_accuracy"], spans="delay"
    )
    layout = figure_of(drawing)["layout"]
    assert layout["shapes"][0]["x1"] == 20000
    assert layout["annotations"][1]["text"] == "delay: over 19,617 steps"


def test_several_seeds_have_a_line_each_and_their_median(runs: Path) -> None:
    path = runs / "three-seeds"
    (drawing,) = draw(path, kind="curves", title="A", columns=["test_accuracy"], arms=["baseline"])
    traces = figure_of(drawing)["data"]
    assert len(traces) == 4
    run = Run(path)
    columns = [run.histories["baseline", seed]["test_accuracy"] for seed in (0, 1, 2)]
    assert traces[3]["y"] == pytest.approx(np.median(columns, axis=0).tolist(), rel=1e-5)
    assert traces[3]["name"].endswith("median")


def test_the_median_stops_where_a_seed_stops(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0, 1]) as run:
        for seed, last in ((0, 3), (1, 2)):
            for step in range(last + 1):
                run.trial("baseline", seed).append({"step": step, "test_loss": step + seed}, {})
    (drawing,) = draw(tmp_path / "run", kind="curves", title="L", columns=["test_loss"])
    assert figure_of(drawing)["data"][2]["y"] == [0.5, 1.5, 2.5]


def test_the_band_spans_the_extremes_of_the_probe_points(runs: Path) -> None:
    (drawing,) = draw(
        runs / "finished",
        kind="curves",
        title="C",
        columns=["centroid_alignment"],
        band="range",
        arms=["grokalign"],
    )
    band, line = figure_of(drawing)["data"]
    rows = [made_up_runs.measures(step, 800) for step in made_up_runs.measured(3000)]
    mean, low, high = (
        [row[f"centroid_alignment{end}"] for row in rows] for end in ("", "_min", "_max")
    )
    assert band["y"][: len(rows)] == pytest.approx(high, rel=1e-5)
    assert band["y"][len(rows) :][::-1] == pytest.approx(low, rel=1e-5)
    # A row without the measure is no gap in its line.
    assert line["y"] == pytest.approx(mean, rel=1e-5)
    assert line["mode"] == "lines+markers"
    assert line["marker"]["maxdisplayed"] == 8


def test_layers_share_one_perceptual_scale_and_each_arm_has_a_plot(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0]) as run:
        for arm in ("baseline", "grokalign"):
            for step in (0, 10, 100):
                row = {"step": step, "capacity/1": 0.1, "capacity/2": 0.2, "capacity/3": 0.3}
                run.trial(arm, 0).append(row, {})
    drawings = draw(
        tmp_path / "run",
        kind="curves",
        title="Capacity",
        columns={"capacity/1": "layer 1", "capacity/2": "layer 2", "capacity/3": "layer 3"},
        color_by="column",
        spans=[{"start": 10, "end": 100, "label": "late compression"}],
    )
    titles = ["Capacity: Weight decay alone", "Capacity: GrokAlign"]
    assert [drawing.title for drawing in drawings] == titles
    figure_of(drawings[0])
    figure = drawings[0].figure
    assert figure is not None
    colors = [trace["line"]["color"] for trace in figure["data"]]
    assert colors == ["@layer0", "@layer6", "@layer11"]
    assert figure["data"][0]["mode"] == "lines+markers"
    assert figure["layout"]["annotations"][-1]["text"] == "late compression"
    assert [key.label for key in drawings[1].keys] == ["layer 1", "layer 2", "layer 3"]


def test_gaps_stay_gaps_and_a_log_axis_has_whole_powers(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0]) as run:
        for step, loss in ((1, 30.0), (10, float("nan")), (100, 0.0), (1000, 0.02)):
            run.trial("baseline", 0).append({"step": step, "train_loss": loss}, {})
    (drawing,) = draw(
        tmp_path / "run", kind="curves", title="L", columns=["train_loss"], y_scale="log"
    )
    figure = figure_of(drawing)
    assert figure["data"][0]["y"] == [30.0, None, 0.0, 0.02]
    assert figure["layout"]["yaxis"]["ticktext"] == ["0.01", "0.1", "1", "10", "100"]


def test_a_reference_is_a_line_with_its_label(runs: Path) -> None:
    panel = {"kind": "curves", "title": "N", "columns": ["jacobian_norm"], "y_scale": "log"}
    (drawing,) = draw(runs / "finished", **panel, reference=5.0, reference_label="held at 5")
    layout = figure_of(drawing)["layout"]
    assert layout["shapes"][-1]["y0"] == 5.0
    assert layout["annotations"][-1]["y"] == pytest.approx(np.log10(5.0))
    with pytest.raises(PanelError, match="above 0"):
        panel_from({**panel, "reference": 0.0})


def test_heat_map_ticks_are_steps_at_powers_of_ten(with_results: Path) -> None:
    drawings = draw(with_results, kind="heatmap", title="Kernel", results="kernel")
    assert [d.title for d in drawings] == ["Kernel: Weight decay alone", "Kernel: GrokAlign"]
    layout = figure_of(drawings[0])["layout"]
    assert layout["xaxis"]["ticktext"] == ["0", "1", "10", "100", "1k"]
    assert layout["xaxis"]["tickvals"] == [0, 1, 3, 5, 7]
    # GrokAlign memorized at 316, a little after the step at place 6, and generalized at 1212.
    marks = [shape["x0"] for shape in figure_of(drawings[1])["layout"]["shapes"][::2]]
    between = math.log(316 / 300) / math.log(1000 / 300), math.log(1212 / 1000) / math.log(3)
    assert marks == pytest.approx([6 + between[0], 7 + between[1]])


def test_heat_map_reads_stored_arrays_as_well(tmp_path: Path) -> None:
    path = made_up_runs.started(tmp_path / "run")
    run = RunDirectory.resume(path, "cpu")
    trial = run.trial("baseline", 0)
    trial.append({"step": 0, "train_accuracy": 0.1}, {})
    matrix = torch.tensor([[0.0, 0.25], [0.25, 0.0]])
    trial.save_arrays("kernel", {"steps": torch.tensor([0, 50]), "matrix": matrix})
    run.close("finished")
    (drawing,) = draw(path, kind="heatmap", title="K", arrays="kernel")
    assert figure_of(drawing)["data"][0]["z"] == [[0.0, 0.25], [0.25, 0.0]]
    assert "0.25" in drawing.alt


def test_heat_map_of_other_rows_than_steps(tmp_path: Path) -> None:
    path = made_up_runs.killed(tmp_path / "run")
    entry = {"steps": [0, 10, 100], "frequency": [1, 2], "matrix": [[0, 1, 2], [0, 1, 7]]}
    (path / "results.json").write_text(json.dumps({"spectrum": entry}))
    panel = {"kind": "heatmap", "title": "S", "results": "spectrum", "rows": "frequency"}
    (drawing,) = draw(path, **panel)
    (trace,) = figure_of(drawing)["data"]
    assert (trace["z"], trace["y"]) == ([[0, 1, 2], [0, 1, 7]], [1, 2])
    assert trace["customdata"][1][2] == ["100", "2"]
    assert "scaleanchor" not in figure_of(drawing)["layout"]["yaxis"]
    assert drawing.alt.endswith(
        "Heat map of frequency over 3 steps, 0 to 100; at the last, largest at 2."
    )
    (path / "results.json").write_text(json.dumps({"spectrum": {**entry, "frequency": [1, 2, 3]}}))
    with pytest.raises(PanelError, match="a column of 3 for each"):
        draw(path, **panel)
    del entry["frequency"]
    (path / "results.json").write_text(json.dumps({"spectrum": entry}))
    with pytest.raises(PanelError, match="needs steps, matrix and frequency"):
        draw(path, **panel)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"steps": [0, 1], "matrix": [[0.0, 1.0]]}, "square matrix"),
        ({"steps": [0, 1], "matrix": [[0.0], [1.0, 0.0]]}, "equal length"),
        ({"steps": [0, 1]}, "steps and matrix"),
        ("nothing", "no mapping"),
    ],
)
def test_a_matrix_that_is_none_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    path = made_up_runs.killed(tmp_path / "run")
    (path / "results.json").write_text(json.dumps({"kernel": entry}))
    with pytest.raises(PanelError, match=message):
        draw(path, kind="heatmap", title="K", results="kernel")


def test_table_of_mappings_of_names_and_of_single_values(with_results: Path) -> None:
    (table,) = draw(with_results, kind="table", title="T", results="theorems")
    html = str(table.html)
    assert '<th scope="col">deviation</th>' in html
    assert "<td>1.2e-09</td>" in html
    assert "<td>yes</td>" in html
    assert "<td>–</td>" in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    (named,) = draw(
        with_results,
        kind="table",
        title="P",
        results="probe",
        row_title="arm",
        columns={"accuracy": "probe accuracy"},
        percent=["accuracy"],
    )
    html = str(named.html)
    assert '<th scope="row">grokalign</th>' in html
    assert "<td>62.5 %</td>" in html
    assert "repeats" not in html
    (single,) = draw(with_results, kind="table", title="S", results="single")
    assert "<td>0.5</td>" in str(single.html)


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"kind": "curves", "title": "A", "columns": ["nothing"]}, "no nothing"),
        ({"kind": "curves", "title": "A", "columns": ["test_loss"], "arms": ["x"]}, "no arm 'x'"),
        ({"kind": "table", "results": "missing.part"}, "no 'missing.part'"),
        ({"kind": "table", "results": "theorems", "columns": ["size"]}, "no 'size'"),
        ({"kind": "heatmap", "title": "K", "arrays": "missing"}, "stored missing"),
        ({"kind": "pictures"}, "stored no centroids"),
    ],
)
def test_what_a_run_does_not_have_is_named(
    with_results: Path, panel: dict[str, Any], message: str
) -> None:
    with pytest.raises(PanelError, match=message):
        draw(with_results, **panel)


def test_mistakes_in_panels_are_all_reported_with_their_place(tmp_path: Path) -> None:
    wrong = [
        {"kind": "curves", "title": "A", "columns": ["test_loss"]},
        {"kind": "curvs"},
        {"kind": "curves", "title": "A", "columns": ["a"], "color": "red", "y_scale": "sqrt"},
        {"kind": "heatmap"},
        "table",
    ]
    spec = {"name": "toy", "title": "A toy", "data": {"name": "digits"}, "arms": {"a": {}}}
    (tmp_path / "toy.yaml").write_text(json.dumps({**spec, "panels": wrong}))
    with pytest.raises(SpecError) as caught:
        load_experiment(str(tmp_path / "toy.yaml"))
    problems = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(problems) == 5
    assert problems[0].startswith("panels.1.kind: unknown kind 'curvs'; did you mean 'curves'?")
    assert any(problem.startswith("panels.2.color: unknown field 'color'") for problem in problems)
    assert any(problem.startswith("panels.2.y_scale: ") for problem in problems)
    assert problems[3] == "panels.3: give results or arrays, one of them"
    assert problems[4].startswith("panels.4: takes a section with fields of its own; got 'table'")


def pixels(entry: dict[str, Any], *shape: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    raw = np.frombuffer(base64.b64decode(entry["pixels"]), dtype=np.int8)
    return raw.reshape(*shape, entry["height"], entry["width"], entry["channels"])


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7)])
def test_pictures_hold_each_point_and_its_centroids_at_every_step(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=shape)
    (drawing,) = draw(path, kind="pictures")
    assert drawing.data is not None
    run = Run(path)
    x = run.arrays("baseline", 0, "probe")["x"].reshape(8, -1, 5, 7).permute(0, 2, 3, 1)
    expected = (127 * x / x.abs().amax(dim=(1, 2, 3), keepdim=True)).round().numpy()
    assert (pixels(drawing.data["given"], 8) == expected).all()
    steps = drawing.data["steps"]
    assert steps == sorted({*made_up_runs.measured(20000), *made_up_runs.measured(3000)})
    row = drawing.data["rows"][1]
    frames = pixels(row, len(made_up_runs.measured(3000)), 8)
    place = steps.index(20000)
    centroids = run.arrays("grokalign", 0, "step-00003000")["centroids"]
    centroids = centroids.reshape(8, -1, 5, 7).permute(0, 2, 3, 1)
    expected = (127 * centroids / centroids.abs().amax(dim=(1, 2, 3), keepdim=True)).round()
    assert (frames[row["frames"][place]] == expected.numpy()).all()
    assert row["metrics"][place].startswith("stopped at step 3,000; train accuracy 100.0 %")
    assert row["metrics"][0].startswith("train accuracy")


def test_pictures_need_not_have_the_size_of_their_points(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=(5, 7))
    run = RunDirectory.resume(path, "cpu")
    wide = {"regions": torch.rand(3, 3, 20, 30)}
    for arm in ("baseline", "grokalign"):
        run.trial(arm, 0).save_arrays("step-00000010", wide)
    run.close("finished")
    (drawing,) = draw(path, kind="pictures", key="regions", points=4)
    assert drawing.data is not None
    assert drawing.data["steps"] == [10]
    html = str(drawing.html)
    assert html.count('width="7" height="5"') == 4
    assert html.count('width="30" height="20"') == 2 * 3


def test_pictures_keep_to_their_share_of_the_page(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=(100, 130))
    (drawing,) = panels.draw(panel_from({"kind": "pictures"}), context(path, picture_bytes=400_000))
    assert drawing.data is not None
    row = drawing.data["rows"][0]
    assert (row["height"], row["width"]) == (25, 32)
    assert sum(len(row["pixels"]) for row in drawing.data["rows"]) < 1.4 * 400_000
    assert max(row["frames"]) >= 2
    assert drawing.data["steps"][0] == 0
    assert drawing.data["steps"][-1] == 20000


def test_pictures_of_a_network_that_diverged_are_drawn_without_it(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0]) as run:
        trial = run.trial("baseline", 0)
        trial.append({"step": 0, "train_loss": float("nan")}, {})
        centroids = torch.full((2, 3, 4), float("nan"))
        centroids[1] = float("inf")
        trial.save_arrays("step-00000000", {"centroids": centroids})
    (drawing,) = draw(tmp_path / "run", kind="pictures")
    assert drawing.data is not None
    assert drawing.data["given"] is None
    assert not pixels(drawing.data["rows"][0], 1, 2).any()


def test_tensors_that_are_no_pictures_are_left_out(tmp_path: Path) -> None:
    path = made_up_runs.grokking(tmp_path / "run", shape=(40,))
    with pytest.raises(NothingToDraw):
        draw(path, kind="pictures")


def test_an_arm_without_one_of_the_columns_is_drawn_without_it(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", made_up_runs.spec(), "cpu", [0]) as run:
        run.trial("baseline", 0).append({"step": 0, "near": 1.0, "far": 2.0}, {})
        run.trial("grokalign", 0).append({"step": 0, "near": 3.0}, {})
    columns = ["near", "far"]
    for band in ("none", "deviation", "range"):
        (drawing,) = draw(tmp_path / "run", kind="curves", title="N", columns=columns, band=band)
        assert [trace["y"] for trace in figure_of(drawing)["data"]] == [[1.0], [2.0], [3.0]]


def test_onsets_are_shaded_and_marked(tmp_path: Path) -> None:
    spec = {**made_up_runs.spec(), "milestones": {}}
    steps = [round(10 ** (place / 10)) for place in range(51)]
    with RunDirectory.create(tmp_path / "run", spec, "cpu", [0]) as run:
        for place, step in enumerate(steps):
            log = place / 10
            row = {
                "step": step,
                "train_accuracy": min(1.0, log / 2),
                "test_accuracy": float(np.interp(log, [3, 4], [0.2, 0.8])),
            }
            run.trial("baseline", 0).append(row, {})
            run.trial("grokalign", 0).append({**row, "test_accuracy": min(0.9, log / 2)}, {})
        matrix = {"steps": steps[::10], "matrix": np.ones((6, 6)).tolist()}
        run.write_results({"kernel": {"baseline": matrix, "grokalign": matrix}})
    for spans in ("onset", "delay"):  # without milestones the delay is the onset
        (drawing,) = draw(
            tmp_path / "run", kind="curves", title="A", columns=["test_accuracy"], spans=spans
        )
        shapes = figure_of(drawing)["layout"]["shapes"]
        assert {shape["name"] for shape in shapes} == {"baseline"}
        ends = [math.log10(shapes[0][end]) for end in ("x0", "x1")]
        assert ends == pytest.approx([3.1, 3.9], abs=1e-3)
        assert drawing.figure["layout"]["annotations"][-1]["text"] == "onset: 1,259 to 7,943"
    late, soon = draw(tmp_path / "run", kind="heatmap", results="kernel", mark="onset")
    marks = figure_of(late)["layout"]["shapes"]
    assert sorted({round(mark["x0"], 1) for mark in marks if mark["x0"] == mark["x1"]}) == [
        3.1,
        3.9,
    ]
    assert figure_of(soon)["layout"]["shapes"] == []


@pytest.mark.parametrize(
    ("rises", "words"),
    [
        ([1000, 2000, None], "onset: 2,083 to 2,881"),  # that of the second, not between the two
        ([1000, None, None], None),
        ([1000, 2000, 0], "onset: 1,041 to 1,440"),
    ],
)
def test_a_seed_that_did_not_rise_is_later_than_any(
    tmp_path: Path, rises: list[int | None], words: str | None
) -> None:
    spec = made_up_runs.spec(seeds=[0, 1, 2], milestones={}, claims=[])
    with RunDirectory.create(tmp_path / "run", spec, "cpu", [0, 1, 2]) as run:
        for seed, rise in enumerate(rises):
            trial = run.trial("baseline", seed)
            for step in (0, 1, 2, 10, 100, 1000, 1500, 2000, 3000, 4000, 8000, 16_000, 32_000):
                high = rise is not None and step > rise
                row = {
                    "train_accuracy": 1.0 if step else 0.1,
                    "test_accuracy": 0.9 if high else 0.2,
                }
                trial.append({"step": step, **row}, {})
        matrix = {"steps": [0, 1000], "matrix": np.ones((2, 2)).tolist()}
        run.write_results({"kernel": {"baseline": matrix}})
    (drawing,) = draw(
        tmp_path / "run", kind="curves", title="A", columns=["test_accuracy"], spans="onset"
    )
    labels = [one["text"] for one in figure_of(drawing)["layout"]["annotations"]]
    assert [one for one in labels if one.startswith("onset")] == ([words] if words else [])
    (map_of,) = draw(tmp_path / "run", kind="heatmap", results="kernel", mark="onset")
    marks = [shape for shape in figure_of(map_of)["layout"]["shapes"] if shape["x0"] == shape["x1"]]
    assert len(marks) == (2 if words else 0)
