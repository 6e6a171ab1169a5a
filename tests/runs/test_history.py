"""Histories as data frames, as data sets and as plots."""

from __future__ import annotations

import math
import sys

import matplotlib
import numpy as np
import pytest

from grokscope.extras import MissingExtra
from grokscope.runs import History

matplotlib.use("Agg")
ROWS = [
    {"step": 0, "arm": "a", "seed": 0, "test_accuracy": 0.1, "norm": 3.0},
    {"step": 10, "test_accuracy": 0.4, "norm": 2.0, "norm_min": 1.0, "norm_max": 4.0},
    {"step": 100, "test_accuracy": 0.9},
]


def test_columns_go_to_pandas_and_xarray_by_step() -> None:
    history = History(ROWS)
    frame, data = history.to_pandas(), history.to_xarray()
    assert list(frame.columns) == ["test_accuracy", "norm", "norm_min", "norm_max"]
    assert frame.index.name == "step"
    assert frame.loc[10, "norm_max"] == 4.0
    assert math.isnan(frame.loc[100, "norm"])
    assert float(data["test_accuracy"].sel(step=100)) == 0.9
    assert list(data) == list(frame.columns)


@pytest.mark.parametrize("steps", [[0, 10], [0.0, 10.0], [np.int32(0), np.float32(10)], []])
def test_steps_are_whole_numbers_of_any_type(steps: list[float]) -> None:
    found = History({"step": step} for step in steps).steps
    assert (found.dtype, found.tolist()) == (np.int64, [int(step) for step in steps])


@pytest.mark.parametrize("step", [0.1, 5.9, math.nan, math.inf, "7", None])
def test_a_step_that_is_no_whole_number_is_refused(step: object) -> None:
    history = History([{"step": 0, "norm": 1.0}, {"step": step, "norm": 2.0}])
    with pytest.raises(ValueError, match="step must be a whole number in each row"):
        history.first_step("norm", 2.0)


def test_a_plot_has_a_line_for_each_column_and_a_band_where_there_is_one() -> None:
    history = History(ROWS)
    figure, axes = history.plot("test_accuracy", "norm")
    accuracy, norm = axes.get_lines()
    assert accuracy.get_xydata().tolist() == [[0, 0.1], [10, 0.4], [100, 0.9]]
    assert norm.get_xydata().tolist() == [[0, 3], [10, 2]]
    assert len(axes.collections) == 1
    assert axes.get_xscale() == "symlog"
    again, same = history.plot(ax=axes)
    assert (again, same) == (figure, axes)
    assert axes.get_lines()[2].get_label() == "test_accuracy"
    with pytest.raises(KeyError, match="no column 'accuracy'"):
        history.plot("accuracy")


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pandas", "xarray"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pandas is not installed.*grokscope\[frames\]"):
        History(ROWS).to_pandas()
    with pytest.raises(MissingExtra, match=r"xarray is not installed.*grokscope\[frames\]"):
        History(ROWS).to_xarray()


def test_phases_are_shaded_where_they_are_known() -> None:
    rows = [
        {"step": step, "train_accuracy": train, "test_accuracy": 0.5}
        for step, train in ((1, 0.2), (10, 0.6), (100, 1.0), (150, 1.0), (400, 1.0))
    ]
    _, axes = History(rows).plot()
    spans = [(each.get_x(), each.get_x() + each.get_width()) for each in axes.patches]
    assert spans == [(1, 150), (150, 400)]
    assert [each.get_text().strip() for each in axes.texts] == ["fitting", "memorized"]
    _, plain = History(rows).plot(phases=False)
    assert not list(plain.patches)
    _, unknown = History([{"step": 1, "norm": 2.0}, {"step": 3, "norm": 1.0}]).plot()
    assert not list(unknown.patches)
