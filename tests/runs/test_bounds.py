"""The largest and the smallest of what a run directory may hold, and the next value, refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from grokscope.runs import RunError
from grokscope.runs.environment import environment
from grokscope.runs.files import inside, read_json, read_text, write_atomically, write_json
from grokscope.runs.rows import KEYS, RowFile
from grokscope.runs.tensors import load_state, save_state
from grokscope.runs.yaml_text import MAX_YAML_BYTES, dump_yaml, parse_yaml

ROW = {"arm": "a", "seed": 0, "step": 0}
BIG = sys.float_info.max


def row_of(folder: Path, **values: Any) -> object:
    (folder / "rows").write_text(json.dumps({**ROW, **values}) + "\n")
    return RowFile(folder / "rows", KEYS).read()


def text_of(folder: Path, size: int) -> object:
    (folder / "text").write_text("x" * size)
    return read_text(folder / "text", 3)


# what is taken, and what is not
BOUNDS: dict[str, tuple[Callable[[Path, Any], object], list[Any], list[Any]]] = {
    "a name": (inside, ["n" * 200, "é" * 100, "a.b"], ["n" * 201, "é" * 101, "", ".a"]),
    "a seed": (lambda at, n: row_of(at, seed=n), [2**63 - 1, -(2**63)], [2**63, -(2**63) - 1]),
    "a step": (lambda at, n: row_of(at, step=n), [0, 2**63 - 1], [-1, 2**63]),
    "a value": (lambda at, x: row_of(at, x=x), [BIG, -BIG, 0, None], [int(BIG) * 2, "1"]),
    "a file": (text_of, [0, 2, 3], [4, 5]),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_the_bounds_of_what_is_read(tmp_path: Path, what: str) -> None:
    read, taken, refused = BOUNDS[what]
    for value in taken:
        read(tmp_path, value)
    for value in refused:
        with pytest.raises(RunError):
            read(tmp_path, value)


def test_the_bounds_of_yaml() -> None:
    assert MAX_YAML_BYTES == 5_000_000
    assert parse_yaml("[" * 50 + "1" + "]" * 50)
    with pytest.raises(ValueError, match="more than 50 levels"):
        parse_yaml("[" * 51 + "1" + "]" * 51)
    with pytest.raises(ValueError, match="constructor for the tag") as caught:
        parse_yaml(f"!{'k' * 1000} 1")
    assert len(str(caught.value)) == 300


def test_yaml_is_written_in_order_with_its_letters_and_in_lines_of_100() -> None:
    value = {"z": "µ", "a": " ".join(["word"] * 60), "deep": {"list": [1, {"b": None}]}}
    text = dump_yaml(value)
    assert text.splitlines()[0] == "z: µ"
    assert 95 < max(map(len, text.splitlines())) <= 104  # broken at the first blank from there on
    assert parse_yaml(text) == value


def test_a_file_is_written_in_folders_that_are_new_and_over_one_that_is_there(
    tmp_path: Path,
) -> None:
    place = tmp_path / "new" / "deep" / "file.json"
    for value in (1, {"a": [2]}):
        write_json(place, value)
        assert read_json(place) == value
    assert place.read_text() == '{\n  "a": [\n    2\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(place, float("nan"))
    write_atomically(place, b"")
    assert [path.name for path in place.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("key", ["x" * length for length in range(1, 9)])
def test_what_is_stored_is_aligned_and_holds_what_is_not_finite(tmp_path: Path, key: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {key: {"w": torch.arange(3.0), 5: float("inf")}, "step": 2})
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    state = load_state(path, needs=("step",))
    assert state["step"] == 2
    assert state[key][5] == float("inf")
    assert state[key]["w"].tolist() == [0.0, 1.0, 2.0]
    with safe_open(str(path), "pt") as file:  # as others read it
        (name,) = file.keys()
        assert file.get_tensor(name).tolist() == [0.0, 1.0, 2.0]
    path.write_bytes(path.read_bytes()[: 8 + header])
    with pytest.raises(RunError, match="damaged"):
        load_state(path)
    path.write_bytes(path.read_bytes()[: 7 + header])
    with pytest.raises(RunError, match="it is cut short"):
        load_state(path)


def test_the_command_is_told_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/grokscope", "run", "x"])
    found = environment("cpu", [3])
    assert found["command"] == ["grokscope", "run", "x"]
    assert (found["device"], found["seeds"], found["accelerator"]) == ("cpu", [3], None)
    assert ":" not in found["processor"][:2]
    assert found["processor"] == found["processor"].strip() != ""
