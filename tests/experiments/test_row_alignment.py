"""The analysis of Table 2, against rows taken one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.analyses.row_alignment import extremes

SPEC = """
name: small
title: A small experiment
seeds: [3, 4]
data: {name: digits, train_size: 60, test_size: 40}
model: {widths: [9, 7]}
training: {max_steps: 20, lr: 1e-2, evaluate: {per_decade: 3}}
monitor: {measures: []}
arms: {baseline: {title: Alone}, grokalign: {methods: [{name: grokalign, weight: 1e-2}]}}
analysis: row_alignment
analysis_options:
  points: 30
  against: {grokalign: baseline}
  published: {grokalign: [-0.5, 0.4]}
"""


def test_extremes_are_those_of_the_rows_at_each_point() -> None:
    model = gs.MLP(6, [11, 8], 4, seed=2).double()
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    largest, smallest = [], []
    for point in x:
        rows = torch.autograd.functional.jacobian(lambda z: model(z.unsqueeze(0))[0], point)
        cosines = [float(row @ point / row.norm() / point.norm()) for row in rows]
        largest.append(max(cosines))
        smallest.append(min(cosines))
    expected = {
        "max": sum(largest) / 7,
        "min": sum(smallest) / 7,
        "all_max": max(largest),
        "all_min": min(smallest),
    }
    assert_close(extremes(model, x), expected)


def test_the_table_has_means_over_seeds_and_gains_by_seed(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    experiment = load_experiment(str(tmp_path / "small.yaml"))
    run = run_experiment(experiment, tmp_path / "run", device="cpu")
    by_seed, gain = run.results["by_seed"], run.results["gain"]
    table = {row["arm"]: row for row in run.results["table"]}
    data = gs.load_data("digits", train_size=60, test_size=40)
    for arm in ("baseline", "grokalign"):
        found = []
        for seed in (3, 4):
            model = gs.MLP(64, [9, 7], 10, seed=seed)
            model.load_state_dict(run.checkpoint(arm, seed)["model"])
            found.append(extremes(model, data.train_x[:30]))
        largest, smallest = ([each[name] for each in found] for name in ("max", "min"))
        assert by_seed[arm]["all_min"] == pytest.approx([each["all_min"] for each in found])
        assert by_seed[arm]["max"] == pytest.approx(largest)
        assert by_seed[arm]["min"] == pytest.approx(smallest)
        assert table[arm]["max"] == pytest.approx(sum(largest) / 2)
        assert table[arm]["min_deviation"] == pytest.approx(abs(smallest[0] - smallest[1]) / 2**0.5)
    for name, sign in (("max", 1), ("min", -1), ("all_max", 1), ("all_min", -1)):
        ours, theirs = by_seed["grokalign"][name], by_seed["baseline"][name]
        expected = [sign * (a - b) for a, b in zip(ours, theirs, strict=True)]
        assert gain["grokalign"][name] == pytest.approx(expected)
    assert (table["grokalign"]["paper_min"], table["grokalign"]["paper_max"]) == (-0.5, 0.4)
    assert (table["baseline"]["title"], table["baseline"]["paper_max"]) == ("Alone", None)
    assert (table["baseline"]["seeds"], table["baseline"]["steps"]) == (2, 20)
