"""A training stopped at any step goes on to the same numbers, bit for bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.methods import Method, Networks
from grokscope.training import loop

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
DATA = (X, Y, X + 0.1, Y)


class Crash(Method):
    """Raises at one step, as if the process had died there."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def filter_gradients(self, step: int, networks: Networks) -> None:
        if step == self.at:
            raise ConnectionResetError


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 3))


def train(path: Path, crash: int | None, **settings: Any) -> gs.FitResult:
    model = network()
    return gs.fit(
        model,
        DATA,
        methods=[gs.GrokAlign(0.01), Crash(crash)],
        monitor=gs.Monitor(
            model,
            (X, Y),
            ["centroid_alignment", "point_ntk", gs.NTKDistance(num_points=12)],
            schedule=[3, 8],
            pictures=2,
        ),
        lr=0.01,
        warmup=4,
        decay="cosine",
        batch_size=7,
        max_steps=14,
        evaluate=[2, 3, 9],
        device="cpu",
        out=path,
        resume=True,
        **settings,
    )


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def stored(path: Path) -> dict[str, dict[str, list]]:
    """All tensors beside the rows, by the names that they have."""
    run = gs.Run(path)
    names = run.array_names("run", 0)
    assert names.count("ntk_distance") == 1
    found = {name: run.arrays("run", 0, name) or {} for name in names}
    return {name: {key: x.tolist() for key, x in held.items()} for name, held in found.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gs.FitResult]:
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, train(path, None)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize("crash", [1, 2, 3, 4, 8, 9, 10, 14])
def test_a_crash_at_any_step(
    tmp_path: Path,
    uninterrupted: tuple[Path, gs.FitResult],
    crash: int,
    checkpoint_seconds: float,
) -> None:
    path, whole = uninterrupted
    with pytest.raises(ConnectionResetError):
        train(tmp_path / "broken", crash, checkpoint_seconds=checkpoint_seconds)
    assert gs.Run(tmp_path / "broken").status["state"] == "failed"
    resumed = train(tmp_path / "broken", None, checkpoint_seconds=checkpoint_seconds)
    metrics = [(run / "metrics.jsonl").read_bytes() for run in (path, tmp_path / "broken")]
    assert metrics[0] == metrics[1]
    assert stored(path) == stored(tmp_path / "broken")
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.history.rows[-1]["train_loss"] == whole.history.rows[-1]["train_loss"]
    assert len(resumed.history) == len(whole.history)


@pytest.mark.parametrize("crash", [4, 10])
def test_the_seconds_before_a_checkpoint_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    ticks = itertools.count()  # each look at the clock takes a second
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(loop, "time", clock)
    whole = train(tmp_path / "whole", None, checkpoint_seconds=0.0)
    with pytest.raises(ConnectionResetError):
        train(tmp_path / "broken", crash, checkpoint_seconds=0.0)
    resumed = train(tmp_path / "broken", None, checkpoint_seconds=0.0)
    assert resumed.train_seconds == whole.train_seconds > 3
    rows = [gs.Run(tmp_path / name).history("run", 0) for name in ("whole", "broken")]
    assert rows[0]["train_seconds"].tolist() == rows[1]["train_seconds"].tolist()
    assert (np.diff(rows[1]["total_seconds"]) > 0).all()


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path) -> None:
    whole = train(tmp_path / "run", None)
    again = train(tmp_path / "run", None)
    assert again.stopped == whole.stopped == "max_steps"
    assert torch.equal(weights(again.model), weights(whole.model))


@pytest.mark.parametrize("crash", [3, 6, 12])
def test_the_checkpoints_of_listed_steps_are_kept_and_no_others(tmp_path: Path, crash: int) -> None:
    kept = [0, 2, 5, 11, 99]
    whole = train(tmp_path / "whole", None, keep_checkpoints=kept)
    with pytest.raises(ConnectionResetError):
        train(tmp_path / "broken", crash, keep_checkpoints=kept, checkpoint_seconds=1e9)
    train(tmp_path / "broken", None, keep_checkpoints=kept)
    runs = [gs.Run(tmp_path / name) for name in ("whole", "broken")]
    for run in runs:
        assert run.checkpoint_steps("run", 0) == [0, 2, 5, 11, 14]
    assert whole.history.steps.tolist() == [0, 2, 3, 5, 8, 9, 11, 14]
    first, again = (run.checkpoint("run", 0, 11)["model"] for run in runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(
        weights(whole.model),
        torch.cat(
            [tensor.flatten() for tensor in runs[1].checkpoint("run", 0, 14)["model"].values()]
        ),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("formats", list(itertools.product([False, True], repeat=2)))
def test_weights_may_lie_otherwise_in_memory_than_before_a_crash(
    tmp_path: Path, optimizer: str, formats: tuple[bool, bool]
) -> None:
    """The fused kernels of optimizers read weights and moments in the order of memory."""
    images = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.arange(20) % 3

    def trained(channels_last: bool, crash: int | None, out: Path | None) -> Tensor:
        model = gs.CNN((3, 6, 6), out_features=3, widths=[4, 5], hidden=[6], seed=0).double()
        if channels_last:
            model.to(memory_format=torch.channels_last)
        gs.fit(
            model,
            (images, labels, images, labels),
            methods=[gs.GrokAlign(0.01), Crash(crash)],
            optimizer=optimizer,
            momentum=0.9 if optimizer == "sgd" else 0.0,
            lr=0.01,
            batch_size=7,
            max_steps=9,
            evaluate=[2, 3],
            device="cpu",
            out=out,
            resume=out is not None,
            checkpoint_seconds=0.0,
        )
        return weights(model)

    before, after = formats
    with pytest.raises(ConnectionResetError):
        trained(before, 5, tmp_path / "run")
    found = trained(after, None, tmp_path / "run")
    torch.testing.assert_close(found, trained(False, None, None), rtol=1e-9, atol=1e-9)
