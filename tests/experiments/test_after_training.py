"""Measured at kept checkpoints once training is over, the values are those measured meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

import grokscope as gs
from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.experiments.spec import Experiment
from grokscope.runs import LaterRows

MEASURES = ("ntk_distance", "manifold_geometry")
STEPS = [0, 1, 7, 20]


def experiment(during: tuple[str, ...], after: tuple[str, ...]) -> Experiment:
    common = {
        # few classes: the search for what their centers share is most of what geometry costs
        "data": {"name": "digits", "classes": [0, 1, 2, 3], "train_size": 60, "test_size": 80},
        "model": {"widths": [12, 9]},
        "monitor": {
            "measures": ["weight_norm", *during],
            "after_training": list(after),
            "probe_size": 40,
            "test_size": 80,
            "pictures": 0,
            "ntk": {"num_points": 5, "keep_kernels": False},
            "manifolds": {"num_points": 6, "num_samples": 20, "linear_probe": False},
            "schedule": {"per_decade": None, "at": STEPS},
        },
    }
    training = {"batch_size": 20, "max_steps": 20, "keep_checkpoints": STEPS}
    return Experiment.model_validate(
        {
            "name": "later",
            "title": "Measured later",
            "threads": 1,
            "arms": {
                "fast": {**common, "training": {**training, "lr": 0.01}},
                "slow": {**common, "training": {**training, "lr": 0.001}},
            },
        }
    )


@pytest.fixture(scope="module")
def during(tmp_path_factory: pytest.TempPathFactory) -> gs.Run:
    path = tmp_path_factory.mktemp("runs") / "during"
    return run_experiment(experiment(MEASURES, ()), path, device="cpu")


def columns(run: gs.Run, arm: str) -> dict[str, list[float]]:
    history = run.history(arm, 0)
    return {
        name: history[name].tolist()
        for name in sorted(history.names)
        if not name.endswith("_seconds")
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_the_rows_are_the_same(tmp_path: Path, during: gs.Run, workers: int) -> None:
    run = run_experiment(experiment((), MEASURES), tmp_path / "run", device="cpu", workers=workers)
    for arm in ("fast", "slow"):
        expected = columns(during, arm)
        assert "test_capacity/linear2" in expected
        found = columns(run, arm)
        assert list(found) == list(expected)
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-12, nan_ok=True), name
        matrices = [of.arrays(arm, 0, "ntk_distance")["matrix"] for of in (during, run)]
        assert matrices[0].shape == (4, 4)
        assert matrices[1].tolist() == matrices[0].tolist()
        assert run.array_names(arm, 0) == ["ntk_distance"]


def test_it_goes_on_at_the_first_checkpoint_without_values(
    tmp_path: Path, during: gs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = experiment((), MEASURES)
    append = LaterRows.append

    def stopping(self: LaterRows, row: dict[str, float]) -> None:
        if row["step"] == 7:
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(LaterRows, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(spec, tmp_path / "run", device="cpu")
    assert [row["step"] for row in LaterRows(tmp_path / "run", "fast", 0).read()] == [0, 1]

    measured = []

    def noting(self: LaterRows, row: dict[str, float]) -> None:
        measured.append(row["step"])
        append(self, row)

    monkeypatch.setattr(LaterRows, "append", noting)
    run = run_experiment(spec, tmp_path / "run", device="cpu", resume=True)
    assert measured == [7, 20, *STEPS]
    for arm in ("fast", "slow"):
        for name, values in columns(during, arm).items():
            assert columns(run, arm)[name] == pytest.approx(values, rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("monitor.after_training=[capacity]", "unknown measure 'capacity'"),
        ("monitor.after_training=[ntk_distance]", "training.keep_checkpoints"),
        ("monitor.after_training=[weight_norm]", "both hold weight_norm"),
    ],
)
def test_mistakes_are_said(setting: str, words: str) -> None:
    settings = [setting]
    if "both" in words:
        settings.append("training.keep_checkpoints=[0]")
    with pytest.raises(SpecError, match=words):
        load_experiment("digits-grokking", settings=settings)
