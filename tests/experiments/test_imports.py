"""Models and data of one's own in a spec: by import, or from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import grokscope as gs
from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.imports import imported

MODULE = """
import torch
from grokscope import Dataset

class Net(torch.nn.Sequential):
    def __init__(self, width, depth=1):
        layers = [torch.nn.Linear(5, width), torch.nn.Tanh()] * depth
        super().__init__(*layers, torch.nn.Linear(width, 3))

def load(size):
    x = torch.randn(size, 5, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    return x, y, x[:7], y[:7]

def dataset(size):
    return Dataset("mine", *load(size), num_classes=3)

def nothing():
    return 3
"""
SPEC = """
name: own
title: A model and data of one's own
data: {import: "MODULE:load", arguments: {size: 30}}
model: {import: "MODULE:Net", arguments: {width: 8}}
training: {max_steps: 4, batch_size: 10}
monitor: {measures: [weight_norm], pictures: 0}
seeds: [0, 1]
arms:
  plain:
  wide: {model: {arguments: {width: 16}}}
"""
WIDE = "  wide: {model: {arguments: {width: 16}}}\n"


def written(folder: Path, text: str = SPEC) -> str:
    """The spec beside its module, which has a name of its own in each test."""
    module = f"own_{abs(hash(str(folder))):x}"
    (folder / f"{module}.py").write_text(MODULE)
    (folder / "own.yaml").write_text(text.replace("MODULE", module))
    return str(folder / "own.yaml")


def test_a_model_and_data_by_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = run_experiment(load_experiment(path), tmp_path / "run", device="cpu")
    assert run.status["state"] == "finished"
    model = run.checkpoint("wide", 1)["model"]
    assert model["0.weight"].shape == (16, 5)
    first, second = (run.history("plain", seed)["train_loss"][0] for seed in (0, 1))
    assert first != second, "each seed has its own initialization"
    again = run_experiment(load_experiment(path), tmp_path / "again", device="cpu")
    assert again.history("plain", 0)["train_loss"][-1] == run.history("plain", 0)["train_loss"][-1]


def test_reading_a_run_imports_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    run_experiment(load_experiment(path), tmp_path / "run", device="cpu")
    for module in tmp_path.glob("own_*.py"):
        module.write_text("raise RuntimeError('imported')")
    run = gs.Run(tmp_path / "run")
    assert run.spec["arms"]["plain"]["model"]["arguments"] == {"width": 8}
    assert len(run.history("plain", 0))
    assert load_experiment(path).arms["plain"].training.max_steps == 4


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_data_from_a_file(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 6)), (np.arange(20) % 3).astype(np.int32)
    arrays = {"train_x": x, "train_y": y, "test_x": x[:5], "test_y": y[:5]}
    if kind == "npz":
        np.savez(tmp_path / "data.npz", **arrays)
    else:
        save_file(arrays, tmp_path / "data.safetensors")
    (tmp_path / "file.yaml").write_text(
        f"name: file\ntitle: x\ndata: {{file: data.{kind}}}\nmodel: {{widths: [4]}}\n"
        "training: {max_steps: 2}\nmonitor: {measures: []}\narms: {one: }\n"
    )
    experiment = load_experiment(str(tmp_path / "file.yaml"))
    run = run_experiment(experiment, tmp_path / "run", device="cpu")
    assert run.checkpoint("one", 0)["model"]["linear2.weight"].shape == (3, 4)
    (tmp_path / f"data.{kind}").write_bytes(b"no data")
    with pytest.raises(ValueError, match=r"data\.\w+ is damaged"):
        run_experiment(experiment, tmp_path / "other", device="cpu")
    (tmp_path / f"data.{kind}").unlink()
    with pytest.raises(ValueError, match="there is no data file"):
        run_experiment(experiment, tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_a_pickle_is_no_data(tmp_path: Path) -> None:
    from grokscope.data import load_file

    np.savez(tmp_path / "data.npz", train_x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="is damaged, or holds what is no array"):
        load_file(tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (":Net", ":Nett", "did you mean 'Net'"),
        ("MODULE:Net", "own_gone:Net", "there is no module 'own_gone'"),
        ("{width: 8}", "{width: 8, dpth: 2}", "unexpected keyword argument 'dpth'"),
        (":Net", ":nothing", "missing a required argument|unexpected keyword argument"),
        ('"MODULE:Net", arguments: {width: 8}', '"MODULE:nothing"', "must give an nn.Module: got"),
        ('"MODULE:load", arguments: {size: 30}', '"MODULE:nothing"', "data must be a grokscope.D"),
    ],
)
def test_a_mistake_is_named_before_there_is_a_run(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = written(tmp_path, SPEC.replace(old, new).replace(WIDE, ""))
    with pytest.raises(SpecError, match=said):
        run_experiment(load_experiment(path), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("MODULE:Net", "Net", "model.import: an import is written [^;]*: got 'Net'$"),
        ("arguments: {size: 30}", "argument: {}", "data.argument: unknown field 'argument'; did"),
        (
            '{import: "MODULE:Net", arguments: {width: 8}}',
            "{name: mpl}",
            "unknown model 'mpl'; did",
        ),
    ],
)
def test_a_mistake_in_the_spec_has_its_path(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path, SPEC.replace(old, new).replace(WIDE, ""))
    with pytest.raises(SpecError, match=said):
        load_experiment(path)


def test_the_architectures_of_the_registry_and_their_arguments(tmp_path: Path) -> None:
    text = (
        "name: cnn\ntitle: x\ndata: {name: digits, train_size: 50, flatten: false}\n"
        "model: {name: cnn, widths: [4], kernel: 3}\ntraining: {max_steps: 2}\n"
        "monitor: {measures: []}\narms: {one: }\n"
    )
    (tmp_path / "cnn.yaml").write_text(text)
    experiment = load_experiment(str(tmp_path / "cnn.yaml"))
    assert experiment.arms["one"].model.downsample == "stride"
    run = run_experiment(experiment, tmp_path / "run", device="cpu")
    assert any(tensor.ndim == 4 for tensor in run.checkpoint("one", 0)["model"].values())
    (tmp_path / "cnn.yaml").write_text(text.replace("kernel", "kernle"))
    with pytest.raises(SpecError, match=r"model\.kernle: unknown field 'kernle'; did you mean"):
        load_experiment(str(tmp_path / "cnn.yaml"))


def test_an_import_of_what_is_there() -> None:
    assert imported("grokscope.models:MLP") is gs.MLP
    with pytest.raises(ValueError, match="did you mean 'MLP'"):
        imported("grokscope.models:MPL")
    assert torch.is_tensor(imported("torch:ones")(1))
