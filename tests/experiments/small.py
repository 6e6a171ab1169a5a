"""The experiment that tests of specs read, and change one piece of."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.experiments import SpecError, load_experiment

SMALL = """
name: small
title: A small experiment
data: {name: digits, train_size: 100}
model: {widths: [16]}
training: {lr: 1e-3, max_steps: 20}
arms:
  baseline:
  grokalign: {methods: [{name: grokalign, weight: 1e-2}]}
presets:
  paper: {training: {max_steps: 40}}
"""


def broken(tmp_path: Path, old: str, new: str) -> str:
    """What is said of the experiment with the first such piece of it changed."""
    assert old in SMALL
    path = tmp_path / "broken.yaml"
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_experiment(str(path))
    return str(caught.value)
