"""Points in a plane by class and step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grokscope.findings.panels import PanelError
from grokscope.report.panels import NothingToDraw
from grokscope.runs import RunDirectory
from tests.report import made_up_runs
from tests.report.drawing import draw, figure_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = made_up_runs.grokking(tmp_path / "run", shape=None)
    with RunDirectory.resume(path, "cpu") as writer:
        points = torch.arange(2 * 5 * 2, dtype=torch.float32).reshape(2, 5, 2)
        arrays = {
            "steps": torch.tensor([0, 300]),
            "points": points,
            "y": torch.tensor([0, 1, 1, 3, 0]),
        }
        writer.trial("grokalign", 0).save_arrays("embedding", arrays)
        writer.trial("grokalign", 0).save_arrays("broken", {"steps": torch.tensor([0])})
    return path


def test_a_plot_for_each_step_with_a_trace_for_each_class(run: Path) -> None:
    first, second = draw(run, kind="embedding", title="Last layer")
    assert first.title == "Last layer: GrokAlign, step 0"
    assert second.title == "Last layer: GrokAlign, step 300"
    traces = figure_of(second)["data"]
    assert [trace["name"] for trace in traces] == ["class 0", "class 1", "class 3"]
    assert traces[1]["x"] == [12.0, 14.0]
    assert traces[1]["y"] == [13.0, 15.0]
    assert [key.label for key in second.keys] == ["0", "1", "3"]


def test_what_is_missing_is_named(run: Path) -> None:
    with pytest.raises(NothingToDraw, match="has stored absent"):
        draw(run, kind="embedding", arrays="absent")
    with pytest.raises(PanelError, match="needs steps, points and y"):
        draw(run, kind="embedding", arrays="broken")
    with RunDirectory.resume(run, "cpu") as writer:
        writer.write_results({"no_embedding": "install umap-learn"})
    with pytest.raises(NothingToDraw, match="install umap-learn"):
        draw(run, kind="embedding", arrays="absent")
