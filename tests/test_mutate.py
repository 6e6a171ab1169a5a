"""Mutants change one place of code that runs, and are known again by their line."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

CODE = '''
"""A module."""

def area(width: Literal[7], height=2) -> Literal[3]:
    """A docstring with 5."""
    if width < 0 and not height:
        raise ValueError("below" + f"{width - 1}")
    return -width * height
'''

CHANGES = {
    "2 -> 3",
    "width < 0 and (not height) -> not (width < 0 and (not height))",
    "width < 0 and (not height) -> width < 0 or not height",
    "width < 0 -> width <= 0",
    "0 -> 1",
    "not height -> height",
    "return -width * height -> return None",
    "-width * height -> -width / height",
    "-width -> width",
}


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("mutate")
    monkeypatch.setattr(module, "SOURCE", tmp_path)
    (tmp_path / "area.py").write_text(CODE)
    return module


def test_all_kinds_of_changes_and_none_of_annotations_words_and_errors(
    mutate: ModuleType, tmp_path: Path
) -> None:
    found = mutate.mutants_of(tmp_path / "area.py")
    assert {f"{each.before} -> {each.after}" for each in found} == CHANGES
    whole = ast.unparse(ast.parse(CODE)).splitlines()
    for mutant in found:
        lines = ast.unparse(mutate.mutated(mutant)).splitlines()
        assert sum(a != b for a, b in zip(lines, whole, strict=True)) == 1, mutant
    names = {each.name for each in found}
    assert len(names) == len(found)
    (tmp_path / "area.py").write_text(CODE.replace('"""A module."""', '"""A module."""\n\nX = "x"'))
    assert {each.name for each in mutate.mutants_of(tmp_path / "area.py")} == names


def test_every_equivalent_mutant_is_one_of_the_code_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    mutate = importlib.import_module("mutate")
    known = mutate.equivalents()
    assert known
    for name, reason in known.items():
        file = mutate.SOURCE / name.partition(":")[0]
        assert name in {each.name for each in mutate.mutants_of(file)}
        assert reason
