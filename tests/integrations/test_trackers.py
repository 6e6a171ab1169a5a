"""``log=`` with the trackers themselves; each keeps its rows on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import grokscope as gs

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def network() -> torch.nn.Module:
    return gs.MLP(5, [6], 3, seed=0)


def watched(log: Any) -> gs.Monitor:
    """A short training whose rows a tracker is given."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.Monitor(model, (X, Y), schedule=2, log=log).attach(optimizer) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
    return monitor


def assert_kept(found: dict[int, float], monitor: gs.Monitor, name: str) -> None:
    expected = dict(zip(monitor.history.steps.tolist(), monitor.history[name], strict=True))
    assert sorted(found) == sorted(expected) == [0, 2, 4, 5]
    assert all(math.isclose(found[step], expected[step], rel_tol=1e-5) for step in found)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        monitor = watched(writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("centroid_alignment")}
    assert_kept(found, monitor, "centroid_alignment")


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Any]:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore:.*protected namespace")  # of MLflow, pydantic < 2.10
@pytest.mark.filterwarnings("ignore:.*noload")  # MLflow's, of SQLAlchemy 2.1
def test_mlflow_on_sqlite(sqlite: Any, tmp_path: Path) -> None:
    experiment = sqlite.create_experiment("digits", artifact_location=str(tmp_path / "artifacts"))
    with sqlite.start_run(experiment_id=experiment) as run:
        monitor = watched(sqlite.log_metrics)
    metrics = sqlite.MlflowClient().get_metric_history(run.info.run_id, "centroid_alignment")
    found = {metric.step: metric.value for metric in metrics}
    assert_kept(found, monitor, "centroid_alignment")


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    kept: dict[int, float] = {}
    with wandb.init(project="grokscope", mode="offline", dir=str(tmp_path)) as run:

        def log(row: dict[str, float], step: int) -> None:
            wandb.log(row, step=step)
            wandb.log({}, step=step + 1)  # a row is complete when the next one begins
            kept[step] = run.summary["centroid_alignment"]

        monitor = watched(log)
    assert_kept(kept, monitor, "centroid_alignment")
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read once, when it is imported
    import trackio

    trackio.init(project="grokscope", name="one", embed=False)
    monitor = watched(trackio.log)
    trackio.finish()
    rows = trackio.SQLiteStorage.get_logs("grokscope", "one")
    found = {row["step"]: row["centroid_alignment"] for row in rows if "centroid_alignment" in row}
    assert_kept(found, monitor, "centroid_alignment")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_by_attach(precision: str) -> None:
    """A prepared model, optimizer and loader, two micro-batches a step, as a plain loop does it."""
    rows: list[tuple[int, float]] = []
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # one a process, of the test that came first
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
    plain, model = network(), network()
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    optimizers = [torch.optim.AdamW(own.parameters(), lr=0.01) for own in (plain, model)]
    for method in (gs.GrokAlign(0.1, projections=None), gs.OrthoGrad()):
        method.attach(plain, optimizers[0])
    for index, (x, y) in enumerate(loader, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(plain(x), y)
        (loss / 2).backward()
        if index % 2 == 0:
            optimizers[0].step()
            optimizers[0].zero_grad()
    model, optimizer, prepared = accelerator.prepare(model, optimizers[1], loader)
    for method in (gs.GrokAlign(0.1, projections=None), gs.OrthoGrad()):
        method.attach(model, optimizer)
    log: Any = lambda row, step: rows.append((step, row["centroid_alignment"]))  # noqa: E731
    monitor = gs.Monitor(model, (X, Y), schedule=1, log=log).attach(optimizer)
    for x, y in prepared:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    monitor.close()
    assert [step for step, _ in rows] == [0, 1, 2]
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if precision == "no" else {"rtol": 1e-2, "atol": 2e-3}
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert_close(one, other, **tolerance)
