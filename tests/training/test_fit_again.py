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


def network_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).eval()
    if seed == 5:  # its training is over at once, as diverged
        nn.init.constant_(model[0].weight, torch.inf)
    model[0].train()
    return model


# way to train, seeds, in which of them Ctrl-C is pressed; how each ends, its steps, last row
WAYS: dict[str, tuple[bool, list[int], tuple[int, ...], list[tuple[str, int, int | None]]]] = {
    "stacked": (
        True,
        [3, 5, 4],
        (3, 4),
        [("interrupted", 6, 4), ("diverged", 0, 0), ("interrupted", 6, 4)],
    ),
    "apart": (
        False,
        [5, 3, 4],
        (3, 4),
        [("diverged", 0, 0), ("interrupted", 6, 4), ("interrupted", 0, None)],
    ),
    "apart, in the last": (
        False,
        [5, 4, 3],
        (3,),
        [("diverged", 0, 0), ("max_steps", 12, 12), ("interrupted", 6, 4)],
    ),
}


def seeds_trained(
    way: str, interrupted: bool = False, **more: Any
) -> tuple[list[nn.Module], list[gs.FitResult]]:
    vectorize, seeds, pressed_in, _ = WAYS[way]
    models: list[nn.Module] = []

    def build(seed: int) -> nn.Module:
        models.append(network_of(seed))
        return models[-1]

    def methods(seed: int) -> list[gs.Grokfast]:
        # a stack has one method for all of its networks
        pressed = interrupted and (vectorize or seed in pressed_in)
        return [Interrupting() if pressed else gs.Grokfast()]

    how = {"vectorize": vectorize, "methods": methods, "max_steps": 12, **SETTINGS, **more}
    return models, gs.fit_seeds(build, DATA, seeds, **how)


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_in_many_seeds_returns_what_there_is_of_each(way: str, tmp_path: Path) -> None:
    models, results = seeds_trained(way, interrupted=True, out=tmp_path)
    for result, (stopped, steps, last) in zip(results, WAYS[way][3], strict=True):
        assert (result.stopped, result.steps) == (stopped, steps)
        rows = [row["step"] for row in result.history]
        assert rows[-1:] == ([] if last is None else [last])
    assert [result.model for result in results] == models
    for model in models:
        assert (model.training, model[0].training, model[1].training) == (False, True, False)
    assert gs.Run(tmp_path).status["state"] == "interrupted"
    for seed, result in zip(WAYS[way][1], results, strict=True):  # at its last step
        if result.steps in (6, 12):
            how = {"methods": [gs.Grokfast()], "max_steps": result.steps, "seed": seed, **SETTINGS}
            alone = gs.fit(network_of(seed), DATA, **how)
            for own, other in zip(result.model.parameters(), alone.model.parameters(), strict=True):
                torch.testing.assert_close(own, other)


@pytest.mark.parametrize("seconds", [0.0, 1e6])
@pytest.mark.parametrize("way", WAYS)
def test_seeds_that_were_interrupted_go_on_to_the_same(
    way: str, seconds: float, tmp_path: Path
) -> None:
    whole, expected = seeds_trained(way)
    out = {"out": tmp_path, "checkpoint_seconds": seconds}
    seeds_trained(way, interrupted=True, **out)
    models, results = seeds_trained(way, resume=True, **out)
    for model, other in zip(models, whole, strict=True):
        assert all(map(torch.equal, model.parameters(), other.parameters()))
    for result, one in zip(results, expected, strict=True):
        assert (result.stopped, result.steps) == (one.stopped, one.steps)
        assert result.history.steps.tolist() == one.history.steps.tolist()


def test_the_seconds_of_an_interrupted_training_are_counted() -> None:
    result = gs.fit(network(), DATA, methods=[Interrupting()], **SETTINGS | {"evaluate": 1000})
    assert result.steps == 6
    assert result.train_seconds > 0


def test_an_experiment_is_interrupted_as_a_whole(tmp_path: Path) -> None:
    spec = {"name": "x", "title": "x", "seeds": [3, 4], "arms": {"run": {"title": "x"}}}
    with gs.RunDirectory.create(tmp_path, spec, "cpu", [3, 4]) as run:
        trials = [run.trial("run", seed) for seed in (3, 4)]
        how = {"methods": lambda seed: [Interrupting()], "out": trials, **SETTINGS}
        with pytest.raises(KeyboardInterrupt):
            gs.fit_seeds(network_of, DATA, [3, 4], **how)


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


def trained_again(folder: Path, first: dict[str, Any], then: dict[str, Any]) -> None:
    """Train into a folder, and go on with other arguments of ``fit``."""
    for more in (first, {**then, "resume": True}):
        how: dict[str, Any] = {"model": network(), "data": DATA, "max_steps": 4, **SETTINGS}
        how |= {"optimizer": "adamw", **more}
        if not isinstance(how["optimizer"], str):
            how["optimizer"] = how["optimizer"](how["model"].parameters())
        gs.fit(how.pop("model"), how.pop("data"), out=folder, **how)


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 10))


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({}, {"lr": 0.5}, "lr=0.01 and not 0.5"),
        ({}, {"seed": 7}, r"seeds \[0\] and not \[7\]"),
        ({}, {"model": wider()}, "parameters=610 and not 685"),
        ({}, {"data": DATA.subset(train_size=50)}, "train_size=60 and not 50"),
        ({"decay": "cosine"}, {"decay": "cosine", "max_steps": 8}, "max_steps=4 and not 8"),
        (
            {"optimizer": lambda own: torch.optim.SGD(own, 0.1)},
            {"optimizer": lambda own: torch.optim.SGD(own, 0.5)},
            r"optimizer.param_groups\[0\].lr=0.1 and not 0.5",
        ),
    ],
)
def test_another_training_does_not_go_on_with_a_run(
    first: dict[str, Any], then: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        trained_again(tmp_path / "run", first, then)
    assert len(gs.Run(tmp_path / "run").seeds("run")) == 1


@pytest.mark.parametrize(
    "then", [{}, {"max_steps": 8}, {"optimizer": lambda own: torch.optim.AdamW(own, 1e-3)}]
)
def test_the_same_training_goes_on(then: dict[str, Any], tmp_path: Path) -> None:
    first = {name: value for name, value in then.items() if name == "optimizer"}
    trained_again(tmp_path / "run", first, then)


def test_layers_in_evaluation_mode_stay_there() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    model[1].eval()
    gs.fit(model, DATA, max_steps=3, **SETTINGS)
    assert int(model[1].num_batches_tracked) == 0
    assert [module.training for module in model] == [True, False, True, True]
    model.eval()  # as after measuring: not a layer's own mode
    gs.fit(model, DATA, max_steps=3, **SETTINGS)
    assert int(model[1].num_batches_tracked) == 3
