"""The lines of the examples' README, as they stand and in their order."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from grokscope import cli

EXAMPLE = Path(__file__).parents[1] / "examples" / "small_cnn"


def test_a_network_and_data_of_ones_own_go_through_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("small_cnn.py", "make_data.py", "train_elsewhere.py", "experiment.yaml"):
        shutil.copy(EXAMPLE / file, tmp_path)
    spec = (tmp_path / "experiment.yaml").read_text()
    shorter = spec.replace("max_steps: 200, keep_checkpoints: [0, 20, 200]", "max_steps: 40")
    assert shorter != spec
    (tmp_path / "experiment.yaml").write_text(shorter)
    blocks = re.findall(r"```\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert [line[1] for line in lines] == [
        "make_data.py", "run", "sweep", "report", "train_elsewhere.py", "measure",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_cnn", raising=False)
    for line in lines:
        monkeypatch.setattr(sys, "argv", line if line[0] == "grokscope" else line[1:])
        if line[0] == "grokscope":  # in this process, which has loaded PyTorch
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code, line
        else:
            runpy.run_path(line[1], run_name="__main__")
    results = json.loads((tmp_path / "runs/one/status.json").read_text())
    assert results["state"] == "finished"
    assert (tmp_path / "runs/one/report.html").exists()
    plain = [*sorted((tmp_path / "runs/many").rglob("metrics.jsonl"))]
    assert len(plain) == 4  # two widths, two seeds
    measured = (tmp_path / "runs/checkpoints-measured/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in measured]
    assert [row["step"] for row in rows] == [0, 20, 40]
    assert rows[-1]["train_accuracy"] > rows[0]["train_accuracy"]
    assert all("centroid_alignment" in row for row in rows)
