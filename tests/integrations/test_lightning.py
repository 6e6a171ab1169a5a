"""The callbacks in a fit by Lightning, against the same training in a loop of our own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import grokscope as gs
from grokscope.extras import MissingExtra, require
from grokscope.integrations.lightning import MethodsCallback, MonitorCallback
from grokscope.runs import History
from tests.integrations.lightning_networks import (
    PLAIN,
    Classifier,
    OnlyItsNet,
    X,
    Y,
    loader,
    methods,
    network,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*number of training batches",
    "ignore:Be aware that when using `ckpt_path`",
)


def own_loop(
    precision: str = "32-true", accumulate: int = 1, epochs: int = 2, batch_size: int = 6
) -> tuple[nn.Module, History]:
    """The same training without Lightning, by ``attach``."""
    model = network()
    if precision == "bf16-true":
        model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for method in methods():
        method.attach(model, optimizer)
    monitor = gs.Monitor(model, (X, Y), schedule=1).attach(optimizer)
    place = next(model.parameters()).dtype
    for index, (x, y) in enumerate(list(loader(batch_size)) * epochs, 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = F.cross_entropy(model(x.to(place)), y)
        (loss / accumulate).backward()
        if index % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    monitor.close()
    return model, monitor.history


def assert_same(model: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for (name, one), other in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert_close(one, other, msg=name, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


def assert_same_rows(history: History, expected: History, rtol: float = 1e-4) -> None:
    assert history.steps.tolist() == expected.steps.tolist()
    for name in ("centroid_alignment", "jacobian_norm", "probe_accuracy", "weight_norm"):
        assert_close(history[name], expected[name], rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "accumulate"),
    [("32-true", 1), ("32-true", 4), ("bf16-mixed", 1), ("bf16-mixed", 2), ("bf16-true", 1)],
)
def test_a_fit_is_the_loop_with_methods_and_monitor(precision: str, accumulate: int) -> None:
    module, watched = Classifier(), MonitorCallback((X, Y), schedule=1)
    trainer = lightning.Trainer(
        **PLAIN,
        max_epochs=2,
        precision=precision,
        accumulate_grad_batches=accumulate,
        callbacks=[watched, MethodsCallback(methods())],
    )
    trainer.fit(module, loader())
    expected, history = own_loop(precision, accumulate)
    assert watched.monitor is not None
    assert_same(module.net, expected)
    assert_same_rows(watched.monitor.history, history)


def test_a_fit_that_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, history = own_loop(epochs=3)
    results: list[tuple[nn.Module, MonitorCallback]] = []
    for epochs, path in ((1, None), (3, tmp_path / "after one.ckpt")):
        module, watched = Classifier(), MonitorCallback(schedule=1)
        trainer = lightning.Trainer(
            **PLAIN, max_epochs=epochs, callbacks=[watched, MethodsCallback(methods())]
        )
        trainer.fit(module, loader(), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "after one.ckpt")
        results.append((module, watched))
    module, watched = results[-1]
    assert watched.monitor is not None
    assert_same(module.net, whole)
    assert_same_rows(watched.monitor.history, history)
    saved = torch.load(tmp_path / "after one.ckpt", weights_only=True)["callbacks"]
    assert len(saved) == 2  # nothing in them needs a pickle of ours
    trainer = lightning.Trainer(**PLAIN, max_epochs=4, callbacks=[MethodsCallback([])])
    with pytest.raises(ValueError, match=r"the checkpoint is of methods \['grokalign'"):
        trainer.fit(Classifier(), loader(), ckpt_path=tmp_path / "after one.ckpt")


def test_two_monitors_go_on_from_a_checkpoint_each_from_its_own(tmp_path: Path) -> None:
    for epochs, path in ((1, None), (2, tmp_path / "one.ckpt")):
        both = [
            MonitorCallback(schedule=1, measures=[measure], name=name)
            for measure, name in (("weight_norm", ""), ("last_layer_norm", "last"))
        ]
        trainer = lightning.Trainer(**PLAIN, max_epochs=epochs, callbacks=both)
        trainer.fit(Classifier(), loader(), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / "one.ckpt")
    for watched, measure in zip(both, ("weight_norm", "last_layer_norm"), strict=True):
        assert watched.monitor is not None
        found = watched.monitor.history
        assert found.steps.tolist() == list(range(9))
        assert ("weight_norm" in found) is (measure == "weight_norm")
        assert ("last_layer_norm" in found) is (measure == "last_layer_norm")


def test_a_monitor_that_joins_later_counts_from_the_checkpoint(tmp_path: Path) -> None:
    bare, watched = lightning.Trainer(**PLAIN, max_epochs=1), MonitorCallback(schedule=1)
    bare.fit(Classifier(), loader())
    bare.save_checkpoint(tmp_path / "bare.ckpt")
    trainer = lightning.Trainer(**PLAIN, max_epochs=2, callbacks=[watched])
    trainer.fit(Classifier(), loader(), ckpt_path=tmp_path / "bare.ckpt")
    assert watched.monitor is not None
    assert watched.monitor.history.steps.tolist() == [4, 5, 6, 7, 8]


def test_two_processes(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.integrations.lightning_in_two_processes", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stderr
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    expected, history = own_loop()
    module = Classifier()
    module.load_state_dict(state["model"])
    assert_same(module.net, expected)
    assert_same_rows(History(state["rows"]), history)


def test_the_module_that_the_training_step_calls() -> None:
    expected, history = own_loop()
    for model in (None, "net", lambda module: gs.View(module.net)):
        module = OnlyItsNet()
        watched = MonitorCallback((X, Y), schedule=1, model=model)
        callbacks = [watched, MethodsCallback(methods(), model=model)]
        lightning.Trainer(**PLAIN, max_epochs=2, callbacks=callbacks).fit(module, loader())
        assert watched.monitor is not None
        assert_same(module.net, expected)
        assert_same_rows(watched.monitor.history, history)


def test_it_is_not_guessed_among_several() -> None:
    class Two(OnlyItsNet):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(2, 2)

    for model, said in (
        (None, "2 modules .* net, other: name"),
        ("nett", r"no module of Two: .*net"),
    ):
        trainer = lightning.Trainer(**PLAIN, max_steps=1, callbacks=[MonitorCallback(model=model)])
        with pytest.raises(ValueError, match=said):
            trainer.fit(Two(), loader())
    wrong = MethodsCallback([gs.GrokAlign()], model=lambda module: module.other)
    trainer = lightning.Trainer(**PLAIN, max_steps=1, callbacks=[wrong])
    with pytest.raises(ValueError, match="Linear, to which GrokAlign is attached, was not called"):
        trainer.fit(Two(), loader())


def test_the_package_of_the_old_name() -> None:
    class Old(pytorch_lightning.LightningModule):
        training_step = OnlyItsNet.training_step
        configure_optimizers = OnlyItsNet.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.net = network()

    module, watched = Old(), MonitorCallback((X, Y), schedule=1)
    callbacks = [watched, MethodsCallback(methods())]
    pytorch_lightning.Trainer(**PLAIN, max_epochs=2, callbacks=callbacks).fit(module, loader())
    expected, history = own_loop()
    assert watched.monitor is not None
    assert_same(module.net, expected)
    assert_same_rows(watched.monitor.history, history)


def test_rows_go_to_the_loggers_and_an_interruption_is_measured() -> None:
    class Kept(lightning.pytorch.loggers.Logger):
        name, version = "kept", 0

        def __init__(self) -> None:
            super().__init__()
            self.rows: dict[int, Any] = {}

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            assert step is not None
            self.rows.setdefault(step, {}).update(metrics)

        def log_hyperparams(self, *_args: Any, **_kwargs: Any) -> None:
            pass

    class Interrupted(Classifier):
        def training_step(self, batch: Any, index: int) -> Any:
            if self.global_step == 3:
                raise KeyboardInterrupt
            return super().training_step(batch, index)

    kept, watched = Kept(), MonitorCallback((X, Y), schedule=[0, 2])
    trainer = lightning.Trainer(**PLAIN | {"logger": kept}, max_steps=8, callbacks=[watched])
    # Lightning returns or ends the process, by its version
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(Interrupted(), loader())
    assert watched.monitor is not None
    assert watched.monitor.history.steps.tolist() == [0, 2, 3]
    assert "centroid_alignment" in kept.rows[3]


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'grokscope\[lightning\]'"):
        require("lightning.pytorch", "lightning")
