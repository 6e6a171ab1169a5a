"""Row files: what was written is there, what was torn is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grokscope.runs.files import RunError, write_atomically
from grokscope.runs.rows import RowFile


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl")
    written = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-300}]
    for row in written:
        rows.append(row)
    assert rows.read() == written


def test_figures_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl")
    rows.append({"step": 1, "loss": float("nan"), "norm": float("inf")})
    assert json.loads(rows.path.read_text()) == {"step": 1, "loss": None, "norm": None}


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"{", b"\xff\xfe"])
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, torn: bytes) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl")
    rows.append({"step": 1})
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole + torn)
    assert rows.read() == [{"step": 1}]
    rows.trim()
    assert rows.path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl")
    rows.path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2"):
        rows.read()


def test_rows_that_meet_a_condition_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl")
    for arm in ("a", "b", "a", "c", "a"):
        rows.append({"arm": arm})
    rows.drop(lambda row: row["arm"] == "a")
    assert rows.path.read_bytes() == b'{"arm": "b"}\n{"arm": "c"}\n'
    before = rows.path.stat()
    rows.drop(lambda row: row["arm"] == "a")
    assert rows.path.stat().st_ino == before.st_ino  # it is left as it is


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk with no room")
def test_a_full_disk_is_said_clearly_and_loses_nothing() -> None:
    with pytest.raises(RunError, match=r"/dev/full: No space left on device; .*--resume"):
        RowFile(Path("/dev/full")).append({"step": 1})


def test_an_atomic_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, b"old")

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(RunError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["n" * 250, "n" * 300])
def test_a_name_that_is_too_long_for_the_disk_is_told_as_a_failed_write(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(RunError, match=r"could not write .*: File name too long; what was written"):
        write_atomically(tmp_path / name, b"new")
    assert list(tmp_path.iterdir()) == []
