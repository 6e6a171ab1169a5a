"""Networks trained elsewhere, measured from their checkpoints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import grokscope as gs
from grokscope.training.checkpoint_files import checkpoint_files, load_network

MEASURES = ["jacobian_norm", "row_alignment"]


def data() -> gs.Dataset:
    return gs.load_data("digits", train_size=60, test_size=40, subset="seeded")


def network(seed: int = 0) -> nn.Module:
    return gs.MLP(64, [8], 10, weight_scale=2.0, seed=seed)


def saved(folder: Path, steps: tuple[int, ...] = (0, 3, 20)) -> Path:
    """Checkpoints of networks of different seeds."""
    folder.mkdir()
    for step in steps:
        torch.save(network(step).state_dict(), folder / f"net-{step}.pt")
    return folder


def measured(source: Path, out: Path, **more: Any) -> gs.Run:
    settings = {"measures": MEASURES, "probe_size": 16, "device": "cpu", **more}
    return gs.measure(source, network(), data(), out=out, **settings)


def test_it_finds_what_a_training_recorded_of_itself(tmp_path: Path) -> None:
    model, examples = network(), data()
    probe = examples.train_x[:16], examples.train_y[:16]
    monitor = gs.Monitor(model, probe, MEASURES, schedule=5, exact=True)
    fitted = gs.fit(
        model, examples, monitor=monitor, lr=1e-2, max_steps=10, evaluate=5, device="cpu",
        keep_checkpoints=True, out=tmp_path / "fit",
    )  # fmt: skip
    folder = tmp_path / "fit" / "checkpoints" / "run" / "seed-0"
    run = measured(folder, tmp_path / "run", pattern="step-{step}.safetensors")
    history = run.history("network", 0)
    assert history.steps.tolist() == fitted.history.steps.tolist() == [0, 5, 10]
    for name in ("train_loss", "train_accuracy", "test_accuracy", *MEASURES):
        assert history[name] == pytest.approx(fitted.history[name], rel=1e-5), name
    assert run.state == "finished"
    assert [row["phase"] for row in run.results["phases"]] == ["fitting"]
    assert "not yet memorized" in run.results["finding"]


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    source = saved(tmp_path / "nets")
    whole = measured(source, tmp_path / "whole")
    seen: list[int] = []

    def interrupted(row: dict[str, Any], done: int, total: int) -> None:
        seen.append(row["step"])
        if len(seen) == 2:
            raise KeyboardInterrupt

    def counted(row: dict[str, Any], done: int, total: int) -> None:
        seen.append(row["step"])

    with pytest.raises(KeyboardInterrupt):
        measured(source, tmp_path / "cut", on_measured=interrupted)
    assert gs.Run(tmp_path / "cut").state == "interrupted"
    measured(source, tmp_path / "cut", on_measured=counted)
    assert seen == [0, 3, 20]
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert rows[0] == rows[1]
    torch.save(network(7).state_dict(), source / "net-50.pt")
    more = measured(source, tmp_path / "cut", on_measured=counted)
    assert seen == [0, 3, 20, 50]
    assert more.history("network", 0).steps.tolist() == [0, 3, 20, 50]
    assert whole.history("network", 0).steps.tolist() == [0, 3, 20]
    torch.save(network(7).state_dict(), source / "net-30.pt")
    with pytest.raises(ValueError, match="step 30, and step 50 has been measured"):
        measured(source, tmp_path / "cut")


def test_other_settings_and_other_runs_are_refused_by_name(tmp_path: Path) -> None:
    source = saved(tmp_path / "nets")
    measured(source, tmp_path / "run")
    with pytest.raises(ValueError, match=r"other settings \(probe_size\)"):
        measured(source, tmp_path / "run", probe_size=8)
    gs.fit(network(), data(), max_steps=1, device="cpu", out=tmp_path / "fit")
    with pytest.raises(ValueError, match="holds a run that was not measured"):
        measured(source, tmp_path / "fit")


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    model = network(9).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gs.measure(
        saved(tmp_path / "nets"), model, data(), out=tmp_path / "run", measures=MEASURES,
        probe_size=8, device="cpu",
    )  # fmt: skip
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def written(state: dict[str, Any], how: str, folder: Path) -> Path:
    """A checkpoint in one of the forms that people have."""
    if how == "safetensors":
        save_file(state, folder / "net-4.safetensors")
        return folder / "net-4.safetensors"
    if how == "folder":
        (folder / "checkpoint-4").mkdir()
        save_file(state, folder / "checkpoint-4" / "model.safetensors")
        return folder
    content: dict[str, Any] = {
        "plain": state,
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 1},
        "trainer": {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in state.items()},
    }[how]
    torch.save(content, folder / "epoch=1-step=4.ckpt")
    return folder / "epoch=1-step=4.ckpt"


@pytest.mark.parametrize(
    "how", ["plain", "safetensors", "folder", "lightning", "trainer", "compiled"]
)
def test_the_forms_of_checkpoints(how: str, tmp_path: Path) -> None:
    state = network(3).state_dict()
    (step, path), *others = checkpoint_files(written(state, how, tmp_path)).items()
    assert (step, others) == (4, [])
    model = network(0)
    load_network(model, path)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "pattern", "steps"),
    [
        (["net-20.pt", "net-3.pt"], None, [3, 20]),
        (["resnet18_step_7.pt", "resnet18_step_11.pt"], None, [7, 11]),
        (["epoch=2-step=40.ckpt", "epoch=1-step=20.ckpt"], None, [20, 40]),
        (["net-200x200-1000.pth"], None, [1000]),
        (["a5_1.pt", "a6_1.pt", "best.pt"], "a{step}_*.pt", [5, 6]),
    ],
)
def test_steps_come_from_names(
    names: list[str], pattern: str | None, steps: list[int], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert list(checkpoint_files(tmp_path, pattern)) == steps


class Harmful:
    """Leaves a mark where it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    for place, content in enumerate((Harmful(tmp_path / "mark"), argparse.Namespace(a=1))):
        torch.save({"state_dict": network().state_dict(), "x": content}, tmp_path / f"{place}.pt")
        with pytest.raises(ValueError, match="could run code and is refused") as refused:
            load_network(network(), tmp_path / f"{place}.pt")
        assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "mark").exists()


def mistake_missing(folder: Path) -> Any:
    return folder / "nothing"


def mistake_empty(folder: Path) -> Any:
    return folder


def mistake_no_step(folder: Path) -> Any:
    torch.save(network().state_dict(), folder / "best.pt")
    return folder


def mistake_twice(folder: Path) -> Any:
    for name in ("a-5.pt", "b-5.pt"):
        torch.save(network().state_dict(), folder / name)
    return folder


def mistake_damaged(folder: Path) -> Any:
    torch.save(network().state_dict(), folder / "net-5.pt")
    content = (folder / "net-5.pt").read_bytes()
    (folder / "net-5.pt").write_bytes(content[: len(content) // 2])
    return folder


def mistake_text(folder: Path) -> Any:
    (folder / "net-5.pt").write_text("hello")
    return folder


def mistake_no_state(folder: Path) -> Any:
    torch.save({"lr": 0.1}, folder / "net-5.pt")
    return folder


def mistake_keys(folder: Path) -> Any:
    torch.save(nn.Linear(64, 10).state_dict(), folder / "net-5.pt")
    return folder


def mistake_shapes(folder: Path) -> Any:
    torch.save(gs.MLP(64, [9], 10).state_dict(), folder / "net-5.pt")
    return folder


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (mistake_missing, "there is no .*nothing; name files"),
        (mistake_empty, "holds no checkpoint"),
        (mistake_no_step, "no step in the name of"),
        (mistake_twice, "are both of step 5"),
        (mistake_damaged, "is damaged"),
        (mistake_text, "is damaged"),
        (mistake_no_state, "holds no state dictionary"),
        (mistake_keys, "does not fit the model MLP: it lacks linear1.weight"),
        (mistake_shapes, r"other shapes: linear1.weight \(9, 64\) for \(8, 64\)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    mistake: Callable[[Path], Any], says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "nets"
    folder.mkdir()
    with pytest.raises(ValueError, match=says) as refused:
        measured(mistake(folder), tmp_path / "run")
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("junk", [b"junk", b"\x80\x02J", b"b\n.", b"(l.", b"I1\n0b.", b"h\x05."])
def test_junk_is_damaged_however_the_unpickler_fails(junk: bytes, tmp_path: Path) -> None:
    (tmp_path / "net-5.pt").write_bytes(junk)
    with pytest.raises(ValueError, match=r"is damaged, or no file of torch.save|no state dict"):
        load_network(network(), tmp_path / "net-5.pt")


def test_data_of_another_width_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "nets")
    x, y = torch.rand(9, 5), torch.arange(9)
    with pytest.raises(ValueError, match=r"model does not run on x of shape \(1, 5\)"):
        gs.measure(source, network(), (x, y, x, y), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
