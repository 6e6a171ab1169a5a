"""Where a metric began and ended, from a run's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.experiments import SpecError, load_experiment, run_experiment

SPEC = """
name: small
title: A small experiment
data: {name: digits, train_size: 60}
model: {widths: [8]}
training: {lr: 1e-2, max_steps: 20}
monitor: {probe_size: 16, pictures: 0}
seeds: [0, 1, 2]
arms: {plain: {title: Plain}, wide: {title: Wide, model: {widths: [16]}}}
analysis: trajectory
analysis_options: {metric: jacobian_pc1, name: PC1}
"""


def test_it_is_what_the_histories_say(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    run = run_experiment(
        load_experiment(str(tmp_path / "small.yaml")), tmp_path / "r", device="cpu"
    )
    for arm in ("plain", "wide"):
        columns = [run.history(arm, seed)["jacobian_pc1"] for seed in range(3)]
        columns = [column[column == column] for column in columns]
        moments = run.results["arms"][arm]
        assert moments["first"] == [column[0] for column in columns]
        assert moments["largest"] == [column.max() for column in columns]
        assert moments["last"] == [column[-1] for column in columns]
        assert run.results["table"][arm.title()]["last"] == sorted(moments["last"])[1]
    plain, wide = (run.results["table"][title] for title in ("Plain", "Wide"))
    assert run.results["finding"] == (
        f"PC1: {plain['first']:.2f} to {plain['last']:.2f} (Plain), "
        f"{wide['first']:.2f} to {wide['last']:.2f} (Wide)"
    )


def test_a_metric_that_was_not_measured_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    path = str(tmp_path / "small.yaml")
    for setting, said in (
        ("analysis_options.metric=weight_norms", "unknown metric 'weight_norms'; did you mean"),
        ("monitor.measures=[weight_norm]", "needs jacobian_pc1, which arms.plain does not measure"),
        ("analysis_options.metrics=a", "metrics"),
    ):
        with pytest.raises(SpecError, match=said):
            load_experiment(path, settings=[setting])
    experiment = load_experiment(path, settings=["analysis_options.metric=unembedding_gini_min"])
    with pytest.raises(ValueError, match="plain has no value of unembedding_gini_min"):
        run_experiment(experiment, tmp_path / "r", device="cpu")
