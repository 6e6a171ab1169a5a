"""Seeds trained together and stopped at any step go on to the same numbers, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.runs import Run
from grokscope.training.loop import Loop
from tests.seeds.small import DATA, SEEDS, X, Y, mlp


def train(path: Path, vectorize: bool | str = True, **settings: Any) -> list[gs.FitResult]:
    return gs.fit_seeds(
        mlp,
        DATA,
        SEEDS,
        vectorize=vectorize,
        methods=lambda seed: [
            gs.GrokAlign(0.01, every=2, seed=seed),
            gs.Grokfast("ma", window=3, strength=0.5),
            gs.AdversarialTraining(0.1, seed=seed),
            gs.GradientNoise(0.01, seed=seed),
        ],
        monitor=lambda model: gs.Monitor(
            model,
            (X, Y),
            ["centroid_alignment", gs.NTKDistance(num_points=6)],
            schedule=[3, 8],
            pictures=2,
        ),
        out=path,
        resume=True,
        device="cpu",
        **{
            "lr": 0.02,
            "warmup": 4,
            "decay": "cosine",
            "batch_size": 7,
            "max_steps": 14,
            "evaluate": [2, 5, 9],
            "stop_at": gs.Target("train_accuracy", 0.6),
            "checkpoint_seconds": 0.0,
            **settings,
        },
    )


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Die at the so many-th step, as if the process had; the steps taken, as they are taken."""
    take = Loop.take
    taken: list[int] = []

    def dying(self: Loop, at: int) -> None:
        taken.append(at)
        if len(taken) == number:
            raise ConnectionResetError
        take(self, at)

    monkeypatch.setattr(Loop, "take", dying)
    return taken


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def stored(path: Path) -> dict[str, Any]:
    """All tensors of a run, by seed and name."""
    run = Run(path)
    return {
        f"{seed}/{name}/{key}": value.tolist()
        for seed in SEEDS
        for name in run.array_names("run", seed)
        for key, value in (run.arrays("run", seed, name) or {}).items()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[gs.FitResult]]:
    path = tmp_path_factory.mktemp("runs") / "whole"
    results = train(path)
    assert len({result.steps for result in results}) > 1, "one leaves before the others"
    return path, results


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize("step", [1, 4, 9, 10, 14])
def test_a_crash_at_any_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[Path, list[gs.FitResult]],
    step: int,
    checkpoint_seconds: float,
) -> None:
    path, whole = uninterrupted
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(ConnectionResetError):
            train(broken, checkpoint_seconds=checkpoint_seconds)
    # goes on as it was begun, whatever is asked for
    resumed = train(broken, vectorize=bool(step % 2), checkpoint_seconds=checkpoint_seconds)
    assert (path / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    assert stored(path) == stored(broken)
    for one, other in zip(resumed, whole, strict=True):
        assert torch.equal(weights(one.model), weights(other.model))
        assert one.history.steps.tolist() == other.history.steps.tolist()
        assert (one.steps, one.stopped) == (other.steps, other.stopped)


def test_a_run_killed_between_its_first_rows_starts_again_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: tuple[Path, list[gs.FitResult]]
) -> None:
    broken = tmp_path / "broken"
    look, seen = gs.Monitor.step, []

    def dying(self: gs.Monitor, *arguments: Any, **figures: Any) -> Any:
        seen.append(self)
        if len(seen) == 2:
            raise ConnectionResetError
        return look(self, *arguments, **figures)

    with monkeypatch.context() as patch:
        patch.setattr(gs.Monitor, "step", dying)
        with pytest.raises(ConnectionResetError):
            train(broken)
    assert len((broken / "metrics.jsonl").read_bytes().splitlines()) == 1
    train(broken)
    whole = uninterrupted[0] / "metrics.jsonl"
    assert whole.read_bytes() == (broken / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_returned_as_it_is(
    uninterrupted: tuple[Path, list[gs.FitResult]],
) -> None:
    path, whole = uninterrupted
    before = (path / "metrics.jsonl").read_bytes()
    again = train(path)
    assert (path / "metrics.jsonl").read_bytes() == before
    for one, other in zip(again, whole, strict=True):
        assert torch.equal(weights(one.model), weights(other.model))
        assert (one.steps, one.stopped) == (other.steps, other.stopped)


@pytest.mark.parametrize("step", [3, 20, 30])
def test_a_run_begun_one_after_another_goes_on_like_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    taken = crash_at(monkeypatch, -1)
    train(tmp_path / "whole", vectorize=False)
    needed = len(taken)
    with monkeypatch.context() as patch:
        taken = crash_at(patch, step)
        with pytest.raises(ConnectionResetError):
            train(tmp_path / "broken", vectorize=False)
    assert len(taken) == step
    taken = crash_at(monkeypatch, -1)
    train(tmp_path / "broken", vectorize=True)
    # from the last checkpoint, which is that of one of the later seeds: no step is taken twice
    assert len(taken) == needed - (step - 1)
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1]


def test_each_seed_is_written_as_if_it_were_alone(
    tmp_path: Path, uninterrupted: tuple[Path, list[gs.FitResult]]
) -> None:
    train(tmp_path / "apart", vectorize=False)
    ours, theirs = Run(uninterrupted[0]), Run(tmp_path / "apart")
    assert not (ours.path / "checkpoints/run/resume.safetensors").exists()
    for seed in SEEDS:
        one, other = ours.checkpoint("run", seed), theirs.checkpoint("run", seed)
        assert _shapes(one) == _shapes(other)
        assert one["step"] == other["step"]
        assert one["finished"] is True
        for name, generator in (("0", "generator"), ("2", "generator"), ("3", "generator")):
            assert torch.equal(
                one["methods"][int(name)][generator], other["methods"][int(name)][generator]
            )
        expected = theirs.status["trials"][f"run/seed-{seed}"]
        assert ours.status["trials"][f"run/seed-{seed}"].keys() == expected.keys()


def test_the_checkpoints_of_listed_steps_are_kept(tmp_path: Path) -> None:
    train(tmp_path / "run", keep_checkpoints=[0, 4], stop_at=None)
    for seed in SEEDS:
        assert Run(tmp_path / "run").checkpoint_steps("run", seed) == [0, 4, 14]


def _shapes(state: Any) -> Any:
    """A nested state with the form of each tensor in its place."""
    if isinstance(state, torch.Tensor):
        return tuple(state.shape), str(state.dtype)
    if isinstance(state, dict):
        return {key: _shapes(value) for key, value in state.items() if key != "sizes"}
    if isinstance(state, (list, tuple)):
        return [_shapes(value) for value in state]
    return type(state).__name__
