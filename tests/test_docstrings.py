"""Docstrings have one dialect: Google's sections, entries that begin lower case, "if" in Raises.

And the verbs that PyTorch spells with -ize are spelled so, in names, files and sentences.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "grokscope"
ROOT = SOURCE.parents[1]
# Verbs of the field; the names of others, a title and a folder, are theirs.
OTHERWISE_SPELLED = re.compile(
    r"(?<!Geometric )(?<!inhibiting_)"
    r"(?:memor|general|normal|optim|minim|maxim|initial|penal|regular|vector|linear|factor|symmetr"
    r"|orthogonal|diagonal|standard|random|summar|recogn|visual|character)is(?:e|ing|ation)\w*",
    re.IGNORECASE,
)
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Note")
# A name, as of a person or of a thing in the code, keeps its capital.
NAMES = re.compile(
    r"[A-Z][\w-]*[A-Z0-9][\w-]*|[B-Z]|None|True|False|Gaussian|Frobenius|Jacobians?|Python"
)


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found = ast.get_docstring(node)
            if found is not None:
                yield node.body[0].lineno, found


def entries(lines: list[str]) -> Iterator[str]:
    """The entries of a section: the lines that are indented least."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) == min(indents):
            yield line.strip()


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The sections of a docstring with their lines; what stands before them has no name."""
    name, lines = "", []
    for line in text.splitlines():
        heading = re.fullmatch(r"([A-Z][a-z]+):", line)
        if heading:
            yield name, lines
            name, lines = heading[1], []
        elif line and not line.startswith(" ") and name:
            yield name, lines
            name, lines = "", [line]
        else:
            lines.append(line)
    yield name, lines


def faults(text: str) -> Iterator[str]:
    """What is not as the dialect has it."""
    for name, lines in sections(text):
        if name and name not in SECTIONS:
            yield f"there is no section {name!r}: use one of {', '.join(SECTIONS)}"
        if name != "Example" and any(line.lstrip().startswith(">>>") for line in lines):
            yield "an example stands under Example:"
        if name == "Raises":
            for entry in entries(lines):
                if not re.match(r"[A-Za-z][\w.]+: (if|for|where|as) ", entry):
                    yield f"Raises takes 'SomeError: if ...': {entry!r}"
        if name in ("Args", "Attributes"):
            for entry in entries(lines):
                said = re.match(r"\*{0,2}[\w, *]+(?: \([^)]*\))?: (\S*)", entry)
                if said is None:
                    yield f"{name} takes 'name: ...': {entry!r}"
                elif said[1][:1].isupper() and not NAMES.fullmatch(said[1].strip(",.;:()'s")):
                    yield f"an entry of {name} begins lower case: {entry!r}"


@pytest.mark.parametrize(
    "path",
    sorted(SOURCE.rglob("*.py")),
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_docstrings_have_one_dialect(path: Path) -> None:
    found = [
        f"{path.name}:{line}: {fault}"
        for line, text in docstrings(path.read_text())
        for fault in faults(text)
    ]
    assert not found, "\n" + "\n".join(found)


def test_verbs_are_spelled_as_pytorch_spells_them() -> None:
    names = ["README.md", "CHANGELOG.md", "pyproject.toml"]
    paths = [ROOT / name for name in names]
    for folder in ("src", "tests", "docs", "benchmarks"):
        kinds = (".py", ".pyi", ".md", ".yaml", ".json", ".j2")
        paths += [path for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    reader = SOURCE / "runs" / "reader.py"  # reads what was recorded before
    found = {
        f"{path.relative_to(ROOT)}: {word[0]}"
        for path in paths
        if path != reader
        for word in OTHERWISE_SPELLED.finditer(path.read_text(encoding="utf-8"))
    }
    assert not found, "\n" + "\n".join(sorted(found))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It is.\n\nRaises:\n    ValueError: x is wrong.", "Raises takes"),
        ("It is.\n\nArgs:\n    x: A tensor.", "begins lower case"),
        ("It is.\n\nArgs:\n    a tensor", "Args takes"),
        ("It is.\n\nExamples:\n    >>> 1\n    1", "no section 'Examples'"),
        ("It is.\n\n>>> 1\n1", "stands under Example"),
    ],
)
def test_another_dialect_is_noticed(text: str, fault: str) -> None:
    assert any(fault in found for found in faults(text))


def test_the_dialect_is_taken() -> None:
    text = (
        "It is.\n\nArgs:\n    x: a tensor (n, d),\n        in rows.\n    q: Jacobians.\n\n"
        "Raises:\n    ValueError: if x\n        is wrong.\n\nExample:\n    >>> 1\n    1"
    )
    assert list(faults(text)) == []
