"""An experiment in the span of first layer and data gives the rows of one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

import grokscope as gs
from grokscope.experiments import SpecError, load_experiment, run_experiment

SMALL = [
    "data.options={dimension: 400}",
    "data.train_size=30",
    "data.test_size=50",
    "monitor.probe_size=10",
    "monitor.test_size=50",
    "model.widths=[24]",
    "training.max_steps=60",
    "training.dtype=float64",
    "training.checkpoint_seconds=0",
]


def columns(run: gs.Run, arm: str) -> dict[str, list[float]]:
    history = run.history(arm, 0)
    names = [name for name in history.names if not name.endswith("_seconds")]
    return {"step": history.steps.tolist(), **{name: history[name].tolist() for name in names}}


def test_rows_are_the_same(tmp_path: Path) -> None:
    runs = {}
    for reduce in ("true", "false"):
        settings = [*SMALL, f"data.reduce_to_span={reduce}"]
        experiment = load_experiment("xor-robustness", settings=settings)
        runs[reduce] = run_experiment(experiment, tmp_path / reduce, device="cpu")
    for arm in ("baseline", "grokalign"):
        reduced, direct = (columns(runs[reduce], arm) for reduce in ("true", "false"))
        assert "noise_accuracy/0.6" in direct
        assert list(reduced) == list(direct)
        for name, expected in direct.items():
            assert reduced[name] == pytest.approx(expected, rel=1e-9, abs=1e-11), name
    checkpoint = runs["true"].checkpoint("baseline", 0)
    assert checkpoint["model"]["linear1.weight"].shape == (24, 54)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    experiment = load_experiment("xor-robustness", settings=SMALL)
    whole = run_experiment(experiment, tmp_path / "whole", device="cpu")

    class Stop(Exception):
        """As if the process had died."""

    class Stopping:
        def trial_started(self, arm, seed, max_steps) -> None: ...
        def trial_finished(self, arm, seed, result) -> None: ...
        def evaluated(self, arm, seed, row, seconds) -> None:
            if arm == "grokalign" and row["step"] >= 20:
                raise Stop

    with pytest.raises(Stop):
        run_experiment(experiment, tmp_path / "cut", device="cpu", observer=Stopping())
    resumed = run_experiment(experiment, tmp_path / "cut", device="cpu", resume=True)
    for arm in ("baseline", "grokalign"):
        assert columns(resumed, arm) == columns(whole, arm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.optimizer=adamw"], "exact with training.optimizer sgd alone: adamw"),
        (["analysis=regions"], "an analysis needs networks of whole inputs"),
        (["monitor.noise.std=[]"], "monitor.noise.std"),
        (["monitor.noise.from_feature=-1"], "monitor.noise.from_feature"),
    ],
)
def test_what_would_not_be_the_same_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_experiment("xor-robustness", settings=settings)
