"""What the documentation says of defaults and edges, where no other test would notice a change."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.runs import Run, SeedRuns
from grokscope.runs.files import write_json
from grokscope.runs.seed_runs import write_experiment

DATA = gs.load_data("digits", train_size=40, test_size=30)
SPEC = """
name: small
title: Small
threads: 1
data: {name: digits, train_size: 40}
model: {widths: [8]}
training: {max_steps: 3}
monitor: {measures: []}
arms: {one: , two: }
"""


@pytest.mark.parametrize(
    ("function", "defaults"),
    [
        (gs.sgd_probe, {"num_repeats": 10, "num_examples": 1280, "num_epochs": 10}),
        (gs.sgd_probe, {"batch_size": 128, "learning_rate": 0.01}),
        (gs.linear_probe, {"l2": 1e-3, "max_steps": 1000}),
        (gs.slow_gradient_ema, {"alpha": 0.98}),
    ],
)
def test_defaults_are_those_of_the_papers(function: Any, defaults: dict[str, float]) -> None:
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_the_first_call_of_noise_in_ones_own_loop_is_its_first_step() -> None:
    model = torch.nn.Linear(300, 200, bias=False)
    noise = gs.GradientNoise(variance=0.25, decay=2.0)
    for step in (1, 2, 4):
        model.weight.grad = torch.zeros_like(model.weight)
        noise(model)
        if step != 4:
            deviation = gs.noise_deviation(step, 0.25, 2.0)
            # 60,000 numbers: the deviation of their deviation is 0.3 %
            assert model.weight.grad.std().item() == pytest.approx(deviation, rel=0.02)
    assert noise.state["steps"] == 3


def test_noisy_inputs_without_a_generator_come_from_the_global_one() -> None:
    x = torch.zeros(50, 40)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = gs.noisy_inputs(x, 0.5), gs.noisy_inputs(x, 0.5)
        torch.manual_seed(5)
        again = gs.noisy_inputs(x, 0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.5, rel=0.1)


def test_kernel_alignment_takes_targets_of_a_lower_precision_than_the_kernel() -> None:
    y = torch.tensor([1.0, -1.0, 0.5])
    kernel = torch.outer(y, y).double() + torch.eye(3, dtype=torch.float64)
    expected = (kernel * torch.outer(y, y)).sum() / (kernel.norm() * torch.outer(y, y).norm())
    found = gs.kernel_alignment(kernel, y)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_chunk_of_no_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        gs.layer_activations(torch.nn.Linear(3, 2), torch.randn(4, 3), chunk_size=0)


def train(folder: Path | None, max_steps: int, **more: Any) -> list[Any]:
    return gs.fit_seeds(
        lambda seed: gs.MLP(64, [8], 10, seed=seed),
        DATA,
        [0, 1],
        batch_size=10,
        max_steps=max_steps,
        evaluate=[2],
        device="cpu",
        out=folder,
        **more,
    )


def test_many_seeds_a_second_time_into_one_folder_are_refused_or_resumed(tmp_path: Path) -> None:
    first = train(tmp_path / "run", 4)
    with pytest.raises(RuntimeError, match="holds a run already; go on with --resume, or name"):
        train(tmp_path / "run", 4)
    again = train(tmp_path / "run", 4, resume=True)
    for ours, theirs in zip(again, first, strict=True):
        assert ours.train_seconds == theirs.train_seconds > 0
        assert ours.history.steps.tolist() == theirs.history.steps.tolist()
        for name in ("train_loss", "test_accuracy"):
            assert ours.history[name].tolist() == theirs.history[name].tolist()
        for name, value in theirs.model.state_dict().items():
            assert torch.equal(ours.model.state_dict()[name], value)


class Watching:
    """Notes what an observer is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int, int]] = []

    def trial_started(self, arm: str, seed: int, max_steps: int) -> None:
        self.told.append(("started", arm, seed, max_steps))

    def evaluated(self, arm: str, seed: int, row: Any, seconds: float) -> None:
        assert seconds >= 0

    def trial_finished(self, arm: str, seed: int, result: Any) -> None:
        self.told.append(("finished", arm, seed, result.steps))


def test_an_observer_is_told_of_each_trial_and_seeds_are_read_from_when_they_began(
    tmp_path: Path,
) -> None:
    (tmp_path / "small.yaml").write_text(SPEC)
    experiment = load_experiment(str(tmp_path / "small.yaml"), num_seeds=2)
    begun = {}
    write_experiment(tmp_path / "all", experiment.model_dump(mode="json"))
    for seed in (1, 0):
        watching = Watching()
        run_experiment(
            experiment.model_copy(update={"seeds": (seed,)}),
            tmp_path / f"all/seed-{seed}",
            device="cpu",
            observer=watching,
        )
        assert watching.told == [
            (what, arm, seed, 3) for arm in ("one", "two") for what in ("started", "finished")
        ]
        status = Run(tmp_path / f"all/seed-{seed}").status
        begun[seed] = f"2024-01-0{seed + 1}T00:00:00+00:00"
        write_json(tmp_path / f"all/seed-{seed}/status.json", {**status, "started": begun[seed]})
    assert SeedRuns(tmp_path / "all").status["started"] == begun[0]
