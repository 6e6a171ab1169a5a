"""A run with data of one's own goes on with the data that it began with, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.experiments import runner as runner_module
from grokscope.runs import RunDirectory, RunError

MODULE = """
import numpy as np, torch

def load(path):
    with np.load(path) as file:
        return [torch.from_numpy(file[name]) for name in file.files]
"""
FROM_FILE, FROM_IMPORT = (
    "{file: x.npz}",
    '{import: "MODULE:load", arguments: {path: "FOLDER/x.npz"}}',
)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 6), dtype=np.float32), np.arange(20) % 3
    return {"train_x": x, "train_y": y, "test_x": x[:5], "test_y": y[:5]}


def written(folder: Path, data: str) -> str:
    module = f"own_data_{abs(hash(str(folder))):x}"
    (folder / f"{module}.py").write_text(MODULE)
    np.savez(folder / "x.npz", **arrays())
    (folder / "own.yaml").write_text(
        f"name: own\ntitle: x\ndata: {data}\nmodel: {{widths: [4]}}\ntraining: {{max_steps: 2}}\n"
        "monitor: {measures: []}\narms: {one: }\n".replace("MODULE", module).replace(
            "FOLDER", str(folder)
        )
    )
    return str(folder / "own.yaml")


def changed(name: str) -> dict[str, Any]:
    own = arrays()
    own[name] = own[name][::-1].copy()
    return own


@pytest.mark.parametrize("data", [FROM_FILE, FROM_IMPORT])
@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_other_data_do_not_resume(tmp_path: Path, data: str, part: str) -> None:
    experiment = load_experiment(written(tmp_path, data))
    run_experiment(experiment, tmp_path / "run", device="cpu")
    np.savez(tmp_path / "x.npz", **changed(part))
    before = (tmp_path / "run/status.json").read_bytes()
    with pytest.raises(SpecError, match=r"arms.one.data: .* gives other data than the run began"):
        run_experiment(experiment, tmp_path / "run", device="cpu", resume=True)
    assert (tmp_path / "run/status.json").read_bytes() == before


@pytest.mark.parametrize("data", [FROM_FILE, FROM_IMPORT])
def test_the_same_numbers_in_another_file_resume(tmp_path: Path, data: str) -> None:
    experiment = load_experiment(written(tmp_path, data))
    run_experiment(experiment, tmp_path / "run", device="cpu")
    np.savez_compressed(tmp_path / "x.npz", **arrays())
    run = run_experiment(experiment, tmp_path / "run", device="cpu", resume=True)
    assert len(run.env["resumed"]) == 1
    assert run.env["data"].keys() == {"one"}


def test_a_run_recorded_without_digests_resumes(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, FROM_FILE))
    env = run_experiment(experiment, tmp_path / "run", device="cpu").env
    (tmp_path / "run/env.json").write_text(json.dumps({**env, "data": None}))
    np.savez(tmp_path / "x.npz", **changed("train_x"))
    assert run_experiment(experiment, tmp_path / "run", device="cpu", resume=True)


def test_the_name_of_a_data_set_is_not_recorded_again(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, "{name: digits, train_size: 20}"))
    assert "data" not in run_experiment(experiment, tmp_path / "run", device="cpu").env


def test_to_resume_what_another_process_has_just_begun_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(written(tmp_path, FROM_FILE))
    others: list[RunDirectory] = []
    load: Callable[..., Any] = runner_module.load_dataset

    def slowly(*arguments: Any) -> Any:
        spec = experiment.model_dump(mode="json")
        others.append(RunDirectory.create(tmp_path / "run", spec, "cpu", [0]))
        return load(*arguments)

    monkeypatch.setattr(runner_module, "load_dataset", slowly)
    with pytest.raises(RunError, match="is in use by another process"):
        run_experiment(experiment, tmp_path / "run", device="cpu", resume=True)
    others[0].close("finished")


@pytest.mark.parametrize("name", ["env.json", "status.json"])
def test_to_resume_without_a_file_says_what_to_do(tmp_path: Path, name: str) -> None:
    experiment = load_experiment(written(tmp_path, FROM_FILE))
    run_experiment(experiment, tmp_path / "run", device="cpu")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(RunError, match=f"{name} does not exist.*put that file back, or start"):
        run_experiment(experiment, tmp_path / "run", device="cpu", resume=True)
