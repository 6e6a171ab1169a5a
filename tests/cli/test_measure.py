"""``grokscope measure`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grokscope as gs
from grokscope import cli
from tests.cli.running import grokscope

MODULE = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self, width):
        super().__init__(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
"""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with the user's module, data and checkpoints."""
    (tmp_path / "my_net.py").write_text(MODULE)
    data = gs.load_data("digits", train_size=60, test_size=40)
    parts = ("train_x", "train_y", "test_x", "test_y")
    np.savez(tmp_path / "data.npz", **{name: getattr(data, name).numpy() for name in parts})
    (tmp_path / "nets").mkdir()
    for step in (0, 5):
        net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
        torch.save(net.state_dict(), tmp_path / "nets" / f"net-{step}.pt")
    return tmp_path


def test_measure_writes_a_run_and_a_report_at_80_columns(trained: Path) -> None:
    line = ["measure", "nets", "--model", "my_net:Net", "--model-arg", "width=8"]
    line += ["--data", "data.npz", "--measure", "row_alignment"]
    done = grokscope(*line, folder=trained)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 checkpoint(s), steps 0 to 5, into runs/nets-measured" in done.stdout
    assert "[bold]" not in done.stdout
    assert "fitting at step 5" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert (trained / "runs" / "nets-measured" / "report.html").stat().st_size > 1_000_000
    again = grokscope(*line, "--json", folder=trained)
    found = json.loads(again.stdout)
    assert found["phases"][0]["phase"] == "fitting"
    assert found["state"] == "finished"
    assert [condition["arm"] for condition in found["conditions"]] == ["network"]
    rows = (trained / "runs" / "nets-measured" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2
    lines = again.stderr.splitlines()
    assert not any("step 0 " in line for line in lines), "nothing is measured again"


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["grokscope", "measure", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing", "--model", "mlp", "--data", "digits"], "there is no nothing; name files"),
        (["nets", "--model", "mlpp", "--data", "digits"], "did you mean 'mlp'"),
        (["nets", "--model", "mlp", "--data", "digitss"], "did you mean 'digits'"),
        (["nets", "--model", "mlp", "--data", "no.npz"], "there is no data file"),
        (["nets", "--model", "gone_module:Net", "--data", "digits"], "there is no module"),
        (["nets", "--model", "mlp", "--data", "digits", "--model-arg", "x"], "takes name=value"),
        (["nets", "--model", "mlp", "--data", "digits", "--model-arg", "x=["], "not a YAML value"),
        (["nets", "--model", "mlp", "--data", "digits"], "does not fit the model MLP: it lacks"),
        (["nets", "--model", "mlp", "--data", "digits", "--pattern", "net.pt"], "where the step"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(trained)
    assert called(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert says in said[0]


@pytest.mark.parametrize("done", [0, 1])
def test_ctrl_c_says_how_far_it_came(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    def stopped(*_: Any, on_measured: Any, probe_size: int, loss: str, **__: Any) -> None:
        assert (probe_size, loss) == (256, "cross_entropy")
        for number in range(done):
            on_measured({"step": 0}, number + 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("grokscope.training.measure", stopped)
    monkeypatch.chdir(trained)
    arguments = ["nets", "--model", "mlp", "--model-arg", "widths=[8]", "--data", "digits"]
    assert called(monkeypatch, *arguments) == 130
    said = f"interrupted: {done} of 2 checkpoints are measured, the same line"
    assert said in capsys.readouterr().err
