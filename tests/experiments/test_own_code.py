"""Code of one's own that fails is one line, which names its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.experiments.named_parts import named_data_and_model

SPEC = """
name: own
title: x
data: {%s}
model: {%s}
training: {max_steps: 1}
monitor: {measures: [], pictures: 0}
arms: {one: }
"""
DIGITS, MLP = "name: digits, train_size: 20", "widths: [4]"
NET = "import torch\nclass Net(torch.nn.Linear):\n  def __init__(self): super().__init__(64, 10)\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("\ndef Net(:", r"\(.*MODULE.py, line 2\): SyntaxError: invalid syntax"),
        ("x = 1\nraise RuntimeError('a\\nb')", r"\(.*MODULE.py, line 2\): RuntimeError: a"),
        ("import gone_xyz", r"line 1\): ModuleNotFoundError: No module named 'gone_xyz'"),
        ("import sys\nsys.exit(3)", r"line 2\): SystemExit: 3"),
        ("assert False", r"line 1\): AssertionError"),
        ("class Net:\n  def __init__(self): raise KeyError('b')", r"line 2\): KeyError: 'b'"),
        ("import torch\ndef Net():\n  return torch.nn.Linear('a', 1)", r"line 3\): TypeError: "),
        ("import torch\nNet = torch.nn.Linear(64, 10)", r": Net is a network already; give its cl"),
        (f"{NET}  def forward(self, x): return None", r": model must return a tensor of shape"),
        (f"{NET}  def forward(self, x): return x.gone", r": AttributeError: "),
        (f"{NET}  def forward(self, x): return super().forward(x[:, :3])", ": model does not run"),
    ],
)
def test_a_network_that_fails(tmp_path: Path, code: str, said: str) -> None:
    module = f"own_net_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / "own.yaml").write_text(SPEC % (DIGITS, f'import: "{module}:Net"'))
    with pytest.raises(SpecError, match=said.replace("MODULE", module)) as caught:
        run_experiment(load_experiment(str(tmp_path / "own.yaml")), tmp_path / "run", device="cpu")
    assert str(caught.value).startswith(f"arms.one: import {module}:Net")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def load(): raise ValueError('my data broke')", r"line 1\): ValueError: my data broke"),
        ("def load():\n  return open('gone.txt')", r"line 2\): FileNotFoundError: .*gone.txt"),
        ("import sys\ndef load(): sys.exit()", r"line 2\): SystemExit"),
        ("def load(): return {}['x']", r"line 1\): KeyError: 'x'"),
    ],
)
def test_data_that_fail(tmp_path: Path, code: str, said: str) -> None:
    module = f"own_load_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / "own.yaml").write_text(SPEC % (f'import: "{module}:load"', MLP))
    with pytest.raises(SpecError, match=rf"^import {module}:load .*{module}.py, {said}"):
        run_experiment(load_experiment(str(tmp_path / "own.yaml")), tmp_path / "run", device="cpu")


def test_a_network_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_measured.py").write_text(f"{NET}  def forward(self, x): return None")
    with pytest.raises(SpecError, match="import own_measured:Net: model must return a tensor"):
        named_data_and_model("digits", "own_measured:Net")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interruption_within_it_stays_one(tmp_path: Path, kind: type[BaseException]) -> None:
    module = f"own_stop_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{module}.py").write_text(f"def load(): raise {kind.__name__}")
    (tmp_path / "own.yaml").write_text(SPEC % (f'import: "{module}:load"', MLP))
    with pytest.raises(kind):
        run_experiment(load_experiment(str(tmp_path / "own.yaml")), tmp_path / "run", device="cpu")
