"""Trainings of a run of their own, taken into a recorded run."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grokscope.experiments import load_experiment, run_experiment
from grokscope.runs import Run

SPEC = """
name: small
title: A small experiment
data: {name: digits, classes: [0, 1, 8], train_size: 60, test_size: 100, subset: seeded}
model: {widths: [12, 9]}
training:
  lr: 0.01
  batch_size: 30
  max_steps: 60
  evaluate: {per_decade: 3}
  keep_checkpoints: [0, 10, 60]
monitor:
  measures: [weight_norm]
  after_training: [ntk_distance, manifold_geometry]
  probe_size: 60
  test_size: 60
  pictures: 0
  ntk: {num_points: 8}
  manifolds: {layers: [activation2, linear3], num_points: 8, num_samples: 10, linear_probe: false}
milestones: {memorized: {metric: train_accuracy, target: 0.9}}
arms:
  plain: {title: Plain}
  large: {title: Large weights, model: {weight_scale: 4}}
analysis: representation
"""
ONE_ARM = SPEC.replace("  plain: {title: Plain}\n", "")


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("take_in")


def trained(folder: Path, name: str, spec: str) -> Run:
    (folder / f"{name}.yaml").write_text(spec)
    return run_experiment(load_experiment(str(folder / f"{name}.yaml")), folder / name)


def untimed(run: Run, trial: tuple[str, int]) -> list[dict[str, Any]]:
    """The rows of a training without the seconds that it took."""
    return [
        {name: value for name, value in row.items() if not name.endswith("seconds")}
        for row in run.history(*trial).rows
    ]


def taken_apart(results: dict[str, Any]) -> tuple[str, list[float]]:
    """Results as text without its numbers, and the numbers."""
    text = json.dumps(results, sort_keys=True)
    number = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
    return number.sub("", text), [float(found) for found in number.findall(text)]


def test_an_arm_trained_alone_completes_a_record(tmp_path: Path, taking: ModuleType) -> None:
    whole, alone = trained(tmp_path, "whole", SPEC), trained(tmp_path, "alone", ONE_ARM)
    taking.keep(whole, tmp_path / "expected")
    taking.keep(whole, tmp_path / "kept")
    kept = tmp_path / "kept"
    for name in ("metrics.jsonl", "timing.jsonl", "after_training/large/seed-0.jsonl"):
        lines = (kept / name).read_text().splitlines(keepends=True)
        (kept / name).write_text("".join(lines[:-2]))  # the last rows are of the arm large
    status = json.loads((kept / "status.json").read_text())
    status["trials"]["large/seed-0"]["state"] = status["state"] = "interrupted"
    (kept / "status.json").write_text(json.dumps(status))
    (kept / "arrays/large/seed-0/ntk_distance.safetensors").unlink()
    taking.take_in(kept, [alone], tmp_path / "part")
    expected, found = Run(tmp_path / "expected"), Run(kept)
    for trial in expected.trials:
        assert untimed(found, trial) == untimed(expected, trial)
        assert found.array_names(*trial) == expected.array_names(*trial) != []
    words, numbers = taken_apart(expected.results)
    assert taken_apart(found.results) == (words, pytest.approx(numbers, rel=1e-4, abs=1e-4))
    assert len(numbers) > 100
    assert found.status["state"] == "finished"
    assert found.status["trials"]["large/seed-0"]["state"] == "finished"
    (part,) = found.env["parts"]
    assert (part["trials"], part["device"]) == (["large/seed-0"], "cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("weight_scale: 4", "weight_scale: 3"), "large: model differs from the record"),
        (("  large:", "  other:"), "other: the record has the arms plain, large"),
    ],
)
def test_other_settings_are_refused_and_leave_the_record(
    change: tuple[str, str], says: str, tmp_path: Path, taking: ModuleType
) -> None:
    taking.keep(trained(tmp_path, "whole", SPEC), tmp_path / "kept")
    before = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    other = trained(tmp_path, "other", ONE_ARM.replace(*change))
    with pytest.raises(SystemExit, match=says):
        taking.take_in(tmp_path / "kept", [other], tmp_path / "part")
    assert before == {path: path.read_bytes() for path in before}
