"""State as safetensors: what goes in comes out, and nothing of it is a pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
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


def test_a_state_may_hold_no_tensor(tmp_path: Path) -> None:
    save_state(tmp_path / "state.safetensors", {"step": 7, "seeds": [0]})
    assert load_state(tmp_path / "state.safetensors") == {"step": 7, "seeds": [0]}


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
    with pytest.raises(RunError, match="is damaged"):
        load_state(path)


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"a": torch.randn(3), "step": 7, "nested": {"b": torch.arange(2), "x": 0.5}})
    content = path.read_bytes()
    for place in range(8, len(content)):
        # A blank in the header for another is no change of what it says.
        flipped = bytes([content[place] ^ 1])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        if content[place : place + 1] == b" ":
            continue
        with pytest.raises(RunError, match="damaged"):
            load_state(path)
    path.write_bytes(content)
    assert load_state(path)["nested"]["x"] == 0.5


def test_a_file_from_before_there_were_digests_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    weight = torch.randn(2)
    save(path, weight)
    assert torch.equal(load_state(path)["w"], weight)
    with pytest.raises(RunError, match="it has no 'step'"):
        load_state(path, needs=["w", "step"])


def save(path: Path, weight: torch.Tensor) -> None:
    metadata = {"w": '{"__tensor__": "w"}'}
    path.write_bytes(safetensors.torch.save({"w": weight}, metadata=metadata))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02" + b"\0" * 7 + b"[]",
        b"\x02" + b"\0" * 7 + b"{}",
        b"\x1a" + b"\0" * 7 + b'{"__metadata__":{"a":"{}"}}',
        b"\x1b" + b"\0" * 7 + b'{"__metadata__":{"a":"[["}} ',
    ],
)
def test_what_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"state\.safetensors is damaged") as caught:
        load_state(path, needs=["step"])
    assert "\n" not in str(caught.value)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"could not read .*: Is a directory"):
        load_state(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no file .*gone\.safetensors"):
        load_state(tmp_path / "gone.safetensors")
