"""Recorded steps give the numbers of plain steps, to the bit; what cannot be recorded is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grokscope as gs
from grokscope.methods import Method, Networks
from grokscope.training import graphed
from tests.seeds.small import DATA, SEEDS, mlp

METHODS: dict[str, Any] = {
    "none": lambda seed: [],
    "projected": lambda seed: [gs.GrokAlign(0.01, seed=seed)],
    "every third": lambda seed: [gs.GrokAlign(0.01, every=3, seed=seed)],
    "exact, constrain": lambda seed: [
        gs.GrokAlign(0.1, mode="constrain", target=2.0, projections=None, offset_weight=0.5)
    ],
    "some examples": lambda seed: [gs.GrokAlign(0.01, examples=5, seed=seed)],
    "grokfast, orthograd": lambda seed: [gs.Grokfast(alpha=0.9), gs.OrthoGrad(0.7)],
    "noise": lambda seed: [gs.GradientNoise(0.02, seed=seed)],
    "clipping": lambda seed: [gs.GradientClipping(0.5)],
    "perturbed": lambda seed: [gs.AdversarialTraining(0.2, seed=seed)],
    "adversarial": lambda seed: [
        gs.AdversarialTraining(0.2, attack="fgsm", schedule="error", floor=0.05),
        gs.GrokAlign(0.01, seed=seed),
        gs.GradientNoise(0.02, seed=seed),
    ],
}
PLAIN: dict[str, Any] = {
    "lr": 3e-3,
    "weight_decay": 0.02,
    "batch_size": 12,  # which leaves a smaller batch at the end of each epoch
    "max_steps": 60,
    "evaluate": 25,
    "device": "cpu",
}


def train(methods: Any, **settings: Any) -> list[gs.FitResult]:
    return gs.fit_seeds(mlp, DATA, SEEDS, methods=methods, **{**PLAIN, **settings})


def assert_equal(ours: list[gs.FitResult], theirs: list[gs.FitResult]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.steps == other.steps
        for name in other.history.names:
            np.testing.assert_array_equal(one.history[name], other.history[name], name)
        for own, expected in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(own, expected)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, vectorize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(METHODS[name], vectorize=vectorize)
    replayed: list[int] = []
    replay = graphed.RecordedSteps._replay

    def counting(self: Any, recording: Any, first: int) -> None:
        replayed.append(len(recording.feeds))
        replay(self, recording, first)

    monkeypatch.setattr(graphed.RecordedSteps, "_replay", counting)
    assert_equal(train(METHODS[name], vectorize=vectorize, compile=True), plain)
    trainings = 1 if vectorize else len(SEEDS)
    # two variants warm up, four where every third step has a penalty
    assert sum(replayed) >= trainings * (60 - 4 * graphed.WARM_UP)
    assert graphed.BLOCK in replayed


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"warmup": 7, "decay": "cosine"},
        {"batch_size": None},
        {"loss": "mse", "label_smoothing": 0.1},
        {"stop_at": gs.Target("train_accuracy", 0.8), "lr": 2e-2, "max_steps": 150, "evaluate": 2},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_every_way_to_train(settings: dict[str, Any]) -> None:
    settings = {"vectorize": True, **settings}
    made = METHODS["projected"]
    assert_equal(train(made, compile=True, **settings), train(made, **settings))


def test_a_recorded_training_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"vectorize": True, "compile": True, "checkpoint_seconds": 0.0}
    made = METHODS["adversarial"]
    whole = train(made, out=tmp_path / "whole", **settings)
    take, taken = graphed.RecordedSteps.take, []

    def dying(self: Any, first: int, last: int) -> int:
        taken.append(first)
        if len(taken) == 18:
            raise ConnectionResetError
        return take(self, first, last)

    with monkeypatch.context() as patch:
        patch.setattr(graphed.RecordedSteps, "take", dying)
        with pytest.raises(ConnectionResetError):
            train(made, out=tmp_path / "broken", **settings)
    resumed = train(made, out=tmp_path / "broken", resume=True, **settings)
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1]
    assert_equal(resumed, whole)


class Branching(Method):
    """Looks at the step in Python, and says that it does not."""

    def filter_gradients(self, step: int, networks: Networks) -> None:
        for _, _, gradient in networks.gradients():
            gradient *= 0.9**step

    def capturable(self) -> bool:
        return True


class Silent(gs.GrokAlign):
    pass


def test_a_method_that_breaks_its_word_gives_other_numbers() -> None:
    made = [lambda seed: [Branching()]] * 2
    ours, theirs = train(made[0], compile=True), train(made[1])
    assert not torch.equal(ours[0].model[1].weight, theirs[0].model[1].weight)


@pytest.mark.parametrize(
    ("method", "named"),
    [(Method(), "Method"), (Silent(), "Silent"), (gs.Grokfast("ma", window=3), "Grokfast")],
)
def test_what_cannot_be_recorded_is_named(method: Method, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"compile=True does not go with the method {named}"):
        gs.fit(mlp(0), DATA, methods=[method], compile=True, out=tmp_path / "run", **PLAIN)
    assert not (tmp_path / "run").exists()


def assert_close(ours: list[gs.FitResult], theirs: list[gs.FitResult]) -> None:
    """Equal up to rounding, which CUDA's products do otherwise from call to call."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.steps == other.steps
        for name in other.history.names:
            np.testing.assert_allclose(
                one.history[name], other.history[name], 1e-7, 1e-9, err_msg=name
            )


@pytest.mark.cuda
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_graphs_take_the_steps_of_a_plain_training(name: str, vectorize: bool) -> None:
    settings = {"vectorize": vectorize, "device": "cuda", "dtype": torch.float64}
    made = METHODS[name]
    assert_close(train(made, compile=True, **settings), train(made, **settings))


@pytest.mark.cuda
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"warmup": 7, "decay": "cosine"},
        {"batch_size": None},
        {"loss": "stablemax"},
        {"stop_at": gs.Target("train_accuracy", 0.8), "lr": 2e-2, "max_steps": 150, "evaluate": 2},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_graphs_go_with_every_way_to_train(settings: dict[str, Any]) -> None:
    settings = {"vectorize": True, "device": "cuda", "dtype": torch.float64, **settings}
    made = METHODS["projected"]
    assert_close(train(made, compile=True, **settings), train(made, **settings))


class Syncing(Method):
    """Waits for a value, which a graph cannot hold."""

    def filter_gradients(self, step: int, networks: Networks) -> None:
        for _, _, gradient in networks.gradients():
            gradient *= 1.0 if float(gradient.sum()) > 0 else 0.5

    def capturable(self) -> bool:
        return True


@pytest.mark.cuda
def test_what_cannot_be_captured_says_so() -> None:
    with pytest.raises(RuntimeError, match="could not be captured as a CUDA graph"):
        train(lambda seed: [Syncing()], compile=True, vectorize=True, device="cuda")
