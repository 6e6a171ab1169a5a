"""Mutants change one place of code that runs, and are known again by their line."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
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


TESTS = """
import importlib.util
from pathlib import Path

FILE = Path(__file__).parents[1] / "src/grokscope/shapes/area.py"
SPEC = importlib.util.spec_from_file_location("area", FILE)
area = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(area)


def test_that_is_broken_anyhow():
    assert area.double(2) == 5


def test_double():
    assert area.double(1) == 2


def test_kept():
    assert area.kept(5) == 5


def test_halvings():
    assert area.halvings(5) == 3
"""

# In the folder of the package, without a word of what it is about.
OTHERS = """
import importlib.util
from pathlib import Path

(FILE,) = (Path(__file__).parents[2] / "src/grokscope/shapes").glob("ar*.py")
SPEC = importlib.util.spec_from_file_location("module", FILE)
module = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(module)


def test_all():
    assert getattr(module, "dou" + "ble")(3) == 6
"""

SHAPES = """
def double(width):
    return 2 * width


def kept(width):
    return width**1


def halvings(width):
    count = 0
    while width > 0:
        width, count = width // 2, count + 1
    return count
"""


@pytest.mark.parametrize(
    ("change", "became"),
    [
        ("width ** 1 -> width * 1", "survived"),
        ("2 * width -> 2 / width", "noticed"),  # of 1 the same, so by the other tests of the folder
        ("return 2 * width -> return None", "noticed"),
        ("width > 0 -> width >= 0", "noticed by time"),
    ],
)
def test_a_mutant_is_noticed_by_a_test_that_passes_without_it(
    tmp_path: Path, change: str, became: str
) -> None:
    # A process of its own, as the mutator is: what it forks has no plugin or module of this one.
    found = subprocess.run(
        [sys.executable, __file__, str(tmp_path), change],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1:] == [became], found.stderr


def _became(folder: Path, change: str) -> str | None:
    """What becomes of a change in a small checkout."""
    sys.path.insert(0, str(BENCHMARKS))
    mutate = importlib.import_module("mutate")
    root = folder / "root"
    for name, text in (
        ("src/grokscope/shapes/area.py", SHAPES),
        ("tests/test_area.py", TESTS),
        ("tests/shapes/test_others.py", OTHERS),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("docs", "examples", "benchmarks"):
        (root / name).mkdir()
    mutate.ROOT, mutate.SOURCE, mutate._LONGEST = root, root / "src/grokscope", 4.0
    checkout = mutate.Checkout(folder / "copy")
    (mutant,) = (
        each
        for each in mutate.mutants_of(root / "src/grokscope/shapes/area.py")
        if f"{each.before} -> {each.after}" == change
    )
    found: str | None = checkout.became(mutant)
    restored = (checkout.root / "src/grokscope/shapes/area.py").read_text()
    assert restored == ast.unparse(ast.parse(SHAPES))
    return found


def test_a_sample_stands_beside_those_that_were_written_before(
    mutate: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    mutate.keep(out, None, {"seed": 1})
    mutate.keep(out, "again", {"seed": 2})
    mutate.keep(out, "again", {"seed": 3})
    assert json.loads(out.read_text()) == {"seed": 1, "again": {"seed": 3}}
    mutate.keep(out, None, {"seed": 4})
    assert json.loads(out.read_text()) == {"seed": 4}


if __name__ == "__main__":
    print(_became(Path(sys.argv[1]), sys.argv[2]))
