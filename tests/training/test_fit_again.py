"""A training that is interrupted, or gone on with: by fit in a user's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs

DATA = gs.load_data("digits", train_size=60, test_size=40)
SETTINGS: dict[str, Any] = {"lr": 1e-2, "batch_size": 20, "device": "cpu", "evaluate": 4}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 10))


class Interrupting(gs.Grokfast):
    """A method during whose seventh step Ctrl-C is pressed."""

    def filter_gradients(self, step: int, networks: Any) -> None:
        if step == 7:
            raise KeyboardInterrupt
        super().filter_gradients(step, networks)


@pytest.mark.parametrize("training", [True, False])
def test_ctrl_c_returns_what_there_is(training: bool, tmp_path: Path) -> None:
    model = network().train(training)
    model[2].train(not training)
    result = gs.fit(model, DATA, methods=[Interrupting()], out=tmp_path / "run", **SETTINGS)
    assert (result.stopped, result.steps) == ("interrupted", 6)
    assert result.history.steps.tolist() == [0, 4]
    assert (model.training, model[2].training) == (training, not training)
    assert gs.Run(tmp_path / "run").status["state"] == "interrupted"
    result = gs.fit(model, DATA, max_steps=8, **SETTINGS)
    assert (model.training, model[2].training) == (training, not training)


def test_one_that_was_interrupted_goes_on_to_the_same(tmp_path: Path) -> None:
    whole = network()
    gs.fit(whole, DATA, methods=[gs.Grokfast()], max_steps=12, **SETTINGS)
    out = {"out": tmp_path / "run", "checkpoint_seconds": 0.0, **SETTINGS}
    gs.fit(network(), DATA, methods=[Interrupting()], max_steps=12, **out)
    model = network()
    gs.fit(model, DATA, methods=[gs.Grokfast()], max_steps=12, resume=True, **out)
    assert all(map(torch.equal, model.parameters(), whole.parameters()))


def test_a_finished_run_trains_the_steps_that_are_asked_for(tmp_path: Path) -> None:
    whole = gs.fit(network(), DATA, max_steps=12, **SETTINGS)
    for steps in (8, 12):
        model = network()
        result = gs.fit(model, DATA, max_steps=steps, out=tmp_path, resume=steps > 8, **SETTINGS)
    assert (result.stopped, result.steps) == ("max_steps", 12)
    assert result.history.steps.tolist() == whole.history.steps.tolist()
    assert all(map(torch.equal, result.model.parameters(), whole.model.parameters()))
    again = gs.fit(network(), DATA, max_steps=10, out=tmp_path, resume=True, **SETTINGS)
    assert (again.stopped, again.steps) == ("max_steps", 12)


def test_other_settings_than_those_recorded_are_refused_by_name(tmp_path: Path) -> None:
    gs.fit(network(), DATA, max_steps=4, methods=[gs.GrokAlign()], out=tmp_path, **SETTINGS)
    again = {"max_steps": 8, "out": tmp_path, "resume": True}
    with pytest.raises(ValueError, match=r"was trained with lr=0.01 and not 0.1: go on with"):
        gs.fit(network(), DATA, methods=[gs.GrokAlign()], **again, **SETTINGS | {"lr": 0.1})
    with pytest.raises(ValueError, match=r"grokalign.weight=0.001 and not 0.01:"):
        gs.fit(network(), DATA, methods=[gs.GrokAlign(0.01)], **again, **SETTINGS)
    with pytest.raises(ValueError, match=r"methods=\['grokalign'\] and not \[\]"):
        gs.fit(network(), DATA, **again, **SETTINGS)
