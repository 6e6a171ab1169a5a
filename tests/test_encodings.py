"""Files are read and written as UTF-8, whatever encoding the locale names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import grokscope

SOURCE = Path(grokscope.__file__).parent
_TEXT = {"read_text": 0, "write_text": 1}  # and the position of their encoding


def unnamed_encodings(tree: ast.AST) -> list[int]:
    """The lines that read or write text in the encoding of the locale."""
    return [call.lineno for call in ast.walk(tree) if isinstance(call, ast.Call) and _guesses(call)]


def _guesses(call: ast.Call) -> bool:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr in _TEXT:
        return len(call.args) <= _TEXT[function.attr]
    if any(keywords.get(name) for name in ("text", "universal_newlines")):
        return True
    if isinstance(function, ast.Name) and function.id == "open":
        return not _is_binary(call.args[1:2], keywords)
    if isinstance(function, ast.Attribute) and function.attr == "open" and call.args:
        return isinstance(call.args[0], ast.Constant) and not _is_binary(call.args[:1], keywords)
    return (
        isinstance(function, ast.Attribute)
        and function.attr == "decode"
        and bool(call.args and not isinstance(call.args[0], ast.Constant))
    )


def _is_binary(mode: list[ast.expr], keywords: dict[str | None, ast.expr]) -> bool:
    given = mode[0] if mode else keywords.get("mode")
    return isinstance(given, ast.Constant) and "b" in str(given.value)


def test_the_check_finds_what_it_is_for() -> None:
    bad = (
        'p.read_text()', 'p.write_text(s)', 'open(p)', 'open(p, "w")', 'p.open("w")',
        'p.read_text(errors="replace")', "subprocess.run(c, text=True)",
    )  # fmt: skip
    good = (
        'p.read_text("utf-8")', 'p.write_text(s, "utf-8")', 'open(p, "rb")', 'p.open("wb")',
        'open(p, encoding="utf-8")', "subprocess.run(c, encoding='utf-8')", "rows.open()",
    )  # fmt: skip
    assert all(unnamed_encodings(ast.parse(line)) for line in bad)
    assert not any(unnamed_encodings(ast.parse(line)) for line in good)


def test_no_source_file_leaves_the_encoding_to_the_locale() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line in unnamed_encodings(ast.parse(path.read_text("utf-8")))
    ]
    assert not found


def test_an_experiment_reads_the_same_in_an_ascii_locale(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("# Größe der Batch — n\ntitle: Größe\n", "utf-8")
    code = (
        "import pathlib, sys\n"
        "from grokscope.experiments.yaml_files import read_yaml\n"
        "print(ascii(read_yaml(pathlib.Path(sys.argv[1]))))"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, **ascii_only},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == "{'title': 'Gr\\xf6\\xdfe'}"
