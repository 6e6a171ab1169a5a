"""State as safetensors: what goes in comes out, and nothing of it is a pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from grokscope.runs.files import RunError
from grokscope.runs.tensors import load_state, save_state


def test_an_optimizer_state_comes_back_exactly(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "step": 7, "text": "ä", "none": None}
    save_state(tmp_path / "state.safetensors", state)
    back = load_state(tmp_path / "state.safetensors")
    assert back["step"] == 7
    assert back["text"] == "ä"
    assert back["none"] is None
    fresh = torch.optim.AdamW(model.parameters(), lr=0.5)
    fresh.load_state_dict(back["optimizer"])
    assert fresh.param_groups[0]["lr"] == 0.1
    for key, value in optimizer.state[model.weight].items():
        assert torch.equal(fresh.state[model.weight][key], value)


def test_tied_and_transposed_tensors_are_stored_apart(tmp_path: Path) -> None:
    weight = torch.randn(2, 3)
    save_state(tmp_path / "state.safetensors", {"a": weight, "b": weight, "c": weight.T})
    back = load_state(tmp_path / "state.safetensors")
    assert torch.equal(back["a"], weight)
    assert torch.equal(back["b"], weight)
    assert torch.equal(back["c"], weight.T)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RunError, match="damaged or not one of ours"):
        load_state(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no file .*gone\.safetensors"):
        load_state(tmp_path / "gone.safetensors")
