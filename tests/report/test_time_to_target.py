"""The panel that sets arms side by side on their way to a target."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from grokscope.findings.panels import PanelError, panel_from
from grokscope.report.panels import NothingToDraw
from grokscope.runs import RunDirectory
from tests.report.drawing import draw

CURVES = {
    ("baseline", 0): [(0, 0.1), (10, 0.3), (1000, 0.9)],
    ("baseline", 1): [(0, 0.1), (10, 0.3), (3000, 0.9)],
    ("baseline", 2): [(0, 0.1), (10, 0.3), (4000, 0.6)],
    ("fast", 0): [(0, 0.1), (50, 0.3), (100, 0.9)],
    ("fast", 1): [(0, 0.1), (50, 0.3), (100, 0.9)],
    ("fast", 2): [(0, 0.1), (50, 0.3), (200, 0.9)],
    ("fast", 3): [(0, 0.1), (40, 0.2)],
}


@pytest.fixture
def race(tmp_path: Path) -> Path:
    """Two arms of which the third seed of the baseline never gets there; a fourth is under way."""
    arms = {"baseline": {"title": "Alone"}, "fast": {"title": "<Fast>"}, "late": {}}
    spec = {"name": "race", "arms": arms}
    with RunDirectory.create(tmp_path / "run", spec, "cpu", [0, 1, 2, 3]) as writer:
        for (arm, seed), points in CURVES.items():
            trial = writer.trial(arm, seed)
            for step, accuracy in points:
                row = {"step": step, "test_accuracy": accuracy}
                trial.append(row, {"train_seconds": step / 100 * (2 if arm == "fast" else 1)})
            if seed < 3:
                trial.finish(stopped="target", steps=points[-1][0])
    return tmp_path / "run"


def cells(path: Path, **panel: Any) -> list[list[str]]:
    (drawing,) = draw(path, kind="time_to_target", target=0.85, **panel)
    rows = re.findall(r"<tr>(.*?)</tr>", str(drawing.html), re.S)
    return [
        [
            re.sub(r"</span><span[^>]*>", "; ", cell)
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row)
        ]
        for row in rows
    ]


def text(cell: str) -> str:
    return re.sub(r"<[^>]*>", "", cell).replace("\N{NO-BREAK SPACE}", " ")


def test_steps_time_and_ratios_over_seeds(race: Path) -> None:
    heads, baseline, fast = ([text(cell) for cell in row] for row in cells(race))
    assert heads[1:] == [
        "Reached",
        "Steps to 85 %",
        "Speedup in steps",
        "Training time",
        "Speedup in time",
    ]
    assert baseline[:2] == ["Alone", "2 of 3"]
    assert baseline[2].startswith("3,000; mean at least 2,667; 95 %: at least 1,000")
    assert baseline[3] == "–"
    assert fast[:2] == ["&lt;Fast&gt;", "3 of 3"]
    assert fast[2].startswith("100; mean 133 ± 58; 95 %: 100 to 200")
    # by seed 10, 30 and at least 20: the median is 20 or more
    assert fast[3].startswith("20 × to 30 ×; mean at least 20 ×")
    assert fast[4].startswith("2.0 s; mean 2.7 s ± 1.2 s")


def test_time_since_a_level_and_published_figures_stand_beside(race: Path) -> None:
    published = {"fast": {"steps": 7.56, "since": 1.77}}
    heads, baseline, fast = (
        [text(cell) for cell in row] for row in cells(race, since=0.2, published=published)
    )
    assert heads[6:] == ["Time from 20 % to 85 %", "Speedup from 20 % to 85 %"]
    assert baseline[6].startswith("29.9 s")
    assert fast[6].startswith("1.0 s; mean 1.7 s ± 1.2 s")
    assert fast[3].endswith("paper: 7.56 ×")
    assert fast[7].endswith("paper: 1.77 ×")
    assert "paper" not in fast[5]


@pytest.mark.parametrize("over", [[], ["baseline"]])
def test_of_trainings_that_go_on_nothing_is_told(tmp_path: Path, over: list[str]) -> None:
    spec = {"name": "race", "arms": {"baseline": {}, "fast": {}}}
    with RunDirectory.create(tmp_path / "run", spec, "cpu", [0]) as writer:
        for arm in spec["arms"]:
            trial = writer.trial(arm, 0)
            trial.append({"step": 10, "test_accuracy": 0.9}, {"train_seconds": 1.0})
            if arm in over:
                trial.finish(stopped="target", steps=10)
    if not over:
        with pytest.raises(NothingToDraw, match="no training is over yet"):
            cells(tmp_path / "run")
    else:
        _, *rows = cells(tmp_path / "run")
        assert [text(row[0]) for row in rows] == over


def test_mistakes_are_named(race: Path, tmp_path: Path) -> None:
    with pytest.raises(PanelError, match="no arm 'slow'"):
        draw(race, kind="time_to_target", target=0.85, published={"slow": {"steps": 2}})
    with pytest.raises(PanelError, match="baseline: this run has no arm 'slow'"):
        draw(race, kind="time_to_target", target=0.85, baseline="slow")
    with pytest.raises(NothingToDraw):
        draw(race, kind="time_to_target", target=0.85, arms=["late"])
    with pytest.raises(PanelError, match="target: Field required"):
        panel_from({"kind": "time_to_target"})
    assert panel_from({"kind": "time_to_target", "target": 0.9}).title == "Time to target"
