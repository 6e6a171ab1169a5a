"""Robustness after training is the measure on the trained networks, in the data's own units."""

from __future__ import annotations

from pathlib import Path

import pytest

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment

SPEC = """
name: small
title: A small experiment
data: {name: digits, train_size: 100, test_size: 40, normalize: [0.3, 0.4], flatten: false}
model: {name: cnn, widths: [3, 4]}
training: {lr: 1e-2, max_steps: 40}
monitor: {measures: [robust_accuracy], test_size: 40, pictures: 0, robust: {eps: 0.1}}
seeds: [0, 1]
vectorize: false
arms: {plain: {title: Plain}, penalized: {methods: [{name: grokalign, examples: 10}]}}
analysis: robustness
analysis_options: {attack: pgd, eps: 0.1, num_points: 40}
"""


def test_it_is_the_measure_on_the_last_network(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    run = run_experiment(
        load_experiment(str(tmp_path / "small.yaml")), tmp_path / "r", device="cpu"
    )
    results = run.results
    assert results is not None
    for arm in ("plain", "penalized"):
        last = [run.history(arm, seed) for seed in (0, 1)]
        robust, clean = results["arms"][arm]["robust"], results["arms"][arm]["clean"]
        assert robust == pytest.approx([float(rows["robust_accuracy"][-1]) for rows in last])
        assert clean == pytest.approx([float(rows["test_accuracy"][-1]) for rows in last])
        assert all(a < b for a, b in zip(robust, clean, strict=True))
    assert set(results["table"]) == {"Plain", "penalized"}
    table = results["table"]
    for arm, title in (("plain", "Plain"), ("penalized", "penalized")):
        of = results["arms"][arm]
        assert table[title] == {name: sum(of[name]) / 2 for name in ("clean", "robust")}
    assert results["finding"] == (
        "Test accuracy that remains under pgd, Linf 25.5/255: "
        f"{table['Plain']['robust']:.3f} of {table['Plain']['clean']:.3f} (Plain), "
        f"{table['penalized']['robust']:.3f} of {table['penalized']['clean']:.3f} (penalized)"
    )
    assert gs.load_data("digits", normalize=(0.3, 0.4)).value_range == pytest.approx((-0.75, 1.75))
