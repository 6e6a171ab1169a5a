"""Do the tests notice a change of the code? Random mutants, and what became of them.

    python benchmarks/mutate.py --minutes 20 --seed 0 --package measures

A mutant is the source with one place changed: a comparison, an operator, a number, `and` for `or`,
a condition negated, or a returned value replaced by None. It is tried on the docstring examples of
its file and on the four test files nearest to it by the names that they mention, those that take
under a minute; it is noticed where one of them fails, or takes far longer than without it. All
happens in a copy of the checkout, in children of a process that has torch loaded. Packages take
turns, so that a short run samples all of them.

Mutants that no test could notice are named in ``benchmarks/equivalent_mutants.json``, each with the
reason, and are not counted. What was found goes to ``--out`` as JSON, the survivors by place.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "grokscope"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.json"
PACKAGES = (
    "measures", "methods", "data", "models", "runs", "findings", "training", "experiments",
    "report", "cli", "integrations",
)  # fmt: skip
# a mutant has this much time, or so many times its tests'; of a file of tests no more than so long
_LEAST_SECONDS, _SLOWER, _LONGEST_SECONDS = 60.0, 4.0, 60.0

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Add,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file, at a place in its syntax tree.

    ``text`` is the line itself, by which a mutant is known again when lines above it have come or
    gone, and ``column`` the place in it.
    """

    file: str
    line: int
    text: str
    column: int
    place: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What is changed and into what, whatever the line it stands on."""
        return f"{self.file}: {self.before} -> {self.after} at {self.column} of: {self.text}"


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one change, or None where there is nothing to change."""
    new: Any = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in _COMPARED:
        new.ops[0] = _COMPARED[type(new.ops[0])]()
    elif isinstance(new, ast.BinOp | ast.AugAssign) and type(new.op) in _COMPUTED:
        if isinstance(new, ast.BinOp) and _is_text(new.left, new.right):
            return None
        new.op = _COMPUTED[type(new.op)]()
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.USub):
        new = new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value = new.value + 1 if isinstance(new.value, int) else new.value * 1.5 + 0.1
    elif isinstance(new, ast.If | ast.While):
        new.test = ast.UnaryOp(ast.Not(), new.test)
    elif isinstance(new, ast.Return) and new.value is not None and not _is_none(new.value):
        new.value = ast.Constant(None)
    else:
        return None
    return ast.fix_missing_locations(new)


def mutants_of(file: Path) -> list[Mutant]:
    """All mutants of a file, but of its annotations, docstrings and messages of errors."""
    whole = file.read_text("utf-8")
    tree, lines = ast.parse(whole), whole.splitlines()
    found = []
    for place, node in enumerate(_places(tree)):
        new = changed(node)
        if new is not None:
            before, after = (_short(each) for each in (node, new))
            line: int = node.lineno  # type: ignore[attr-defined]
            text = lines[line - 1].strip()
            column: int = node.col_offset - lines[line - 1].index(text)  # type: ignore[attr-defined]
            name = str(file.relative_to(SOURCE))
            found.append(Mutant(name, line, text, column, place, before, after))
    return found


def equivalents() -> dict[str, str]:
    """The mutants that no test could notice, by name, and why."""
    found: dict[str, str] = json.loads(EQUIVALENT.read_text("utf-8"))
    return found


def mutated(mutant: Mutant) -> ast.Module:
    """The syntax tree of the file with the mutant's change."""
    tree = ast.parse((SOURCE / mutant.file).read_text("utf-8"))
    old = next(node for at, node in enumerate(_places(tree)) if at == mutant.place)
    new = changed(old)
    assert new is not None
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and old in value:
                value[value.index(old)] = new
    return tree


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes of code that runs, parents first."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list") or isinstance(tree, ast.Raise):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from _places(child)


def _short(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        node = node.test
    return " ".join(ast.unparse(node).split())[:90]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(*nodes: ast.expr) -> bool:
    return any(
        isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        for node in nodes
    )


def tests_of(file: str, line: int) -> list[str]:
    """The test files that are nearest to a line: by its module and the name that it stands in.

    All that share the most of the module's name, the function's and the class's, at most four.
    """
    tree = ast.parse((SOURCE / file).read_text("utf-8"))
    around = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    }
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    module = Path(file).with_suffix("")
    package = module.parts[0]
    scores = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text("utf-8")
        if "pytest.mark.slurm" in text:
            continue
        score = 8.0 * (path.stem == f"test_{module.name}") + 3.0 * (module.name in path.stem)
        score += 4.0 * (".".join(["grokscope", *module.parts]) in text)
        score += 2.0 * (package in path.parts)
        for names, weight in ((around, 3.0), (public, 1.0)):
            score += weight * sum(bool(re.search(rf"\b{name}\b", text)) for name in names)
        scores[str(path.relative_to(ROOT))] = score
    best = sorted(scores, key=lambda path: (-scores[path], path))
    # a docstring's example is a test as well
    return [f"src/grokscope/{file}", *(path for path in best[:4] if scores[path] > 2)]


class Checkout:
    """A copy of the checkout that mutants are written into, as processes of the tests read it too.

    Args:
        folder: where the copy is made; data beside the checkout are linked.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        plain = shutil.ignore_patterns("__pycache__", "_build")
        for name in ("src", "tests", "docs", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, self.root / name, ignore=plain)
        for file in ROOT.glob("*.*"):
            if file.is_file():
                shutil.copy(file, self.root)
        if (ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to(ROOT.parent / "shared")
        self._takes: dict[str, float | None] = {}

    def takes(self, test: str) -> float | None:
        """The seconds of a test file with the code as it is; None if it fails or is too long."""
        if test not in self._takes:
            begin = time.monotonic()
            passed = self._run([test], _LONGEST_SECONDS) == "passed"
            self._takes[test] = time.monotonic() - begin if passed else None
        return self._takes[test]

    def became(self, mutant: Mutant) -> str | None:
        """Whether it is "noticed" or "survived"; None where no test that is short looks at it."""
        near = {test: self.takes(test) for test in tests_of(mutant.file, mutant.line)}
        tests = {test: taken for test, taken in near.items() if taken is not None}
        if not any(test.startswith("tests/") for test in tests):
            return None
        file = self.root / "src/grokscope" / mutant.file
        whole = file.read_text("utf-8")
        try:
            self._write(file, ast.unparse(mutated(mutant)))
            for test in sorted(tests, key=lambda test: tests[test] or 0.0):
                bound = max(_LEAST_SECONDS, _SLOWER * (tests[test] or 0.0))
                if self._run([test], bound) != "passed":
                    return "noticed"
            return "survived"
        finally:
            self._write(file, whole)

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.write_text(text, "utf-8")
        # of files of one size that change within a second the compiled one would be the old one
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()

    def _run(self, tests: Sequence[str], seconds: float) -> str:
        """What tests say, in a child that has torch loaded: "passed", "failed" or "slow"."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(self._tested(tests))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "slow"

    def _tested(self, tests: Sequence[str]) -> int:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        try:
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root / "src")
            sys.path[:0] = [str(self.root / "src"), str(self.root)]
            plain = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
            return int(pytest.main([*plain, *tests]))
        except BaseException:
            return 3


def main() -> None:
    """Sample mutants for as long as asked, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", action="append", choices=PACKAGES)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    packages = arguments.package or PACKAGES
    rows: list[tuple[str, Mutant, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkout, draw = Checkout(Path(folder)), random.Random(arguments.seed)
        for row in sample(checkout, packages, draw, 60 * arguments.minutes):
            rows.append(row)
            found = {"seed": arguments.seed, "minutes": arguments.minutes, **counted(rows)}
            if arguments.out:  # as it goes: a sample that is ended early counts too
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(counted(rows), indent=1))


def sample(
    checkout: Checkout, packages: Sequence[str], draw: random.Random, seconds: float
) -> Iterator[tuple[str, Mutant, str]]:
    """Mutants of the packages in turn until the time is over: package, mutant, what became of it.

    A package's files count by their number of mutants.
    """
    equivalent = equivalents()
    pools = {}
    for package in packages:
        files = sorted((SOURCE / package).rglob("*.py"))
        pools[package] = [mutant for file in files for mutant in mutants_of(file)]
        draw.shuffle(pools[package])
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(pools.values()):
        for package in packages:
            if time.monotonic() > end or not pools[package]:
                continue
            mutant = pools[package].pop()
            known = mutant.name in equivalent
            became = "equivalent" if known else checkout.became(mutant)
            if became is not None:
                yield package, mutant, became
            if became == "survived":
                print(f"survived {mutant.name} (line {mutant.line})", file=sys.stderr, flush=True)


def counted(rows: Sequence[tuple[str, Mutant, str]]) -> dict[str, Any]:
    """How many of each package were noticed, the share without equivalents, and the survivors."""
    packages: dict[str, Any] = {}
    for package, _, became in rows:
        own = packages.setdefault(package, {"noticed": 0, "survived": 0, "equivalent": 0})
        own[became] += 1
    for own in packages.values():
        tried = own["noticed"] + own["survived"]
        own["share"] = round(own["noticed"] / tried, 3) if tried else None
    survivors = [
        {"line": mutant.line, "mutant": mutant.name}
        for _, mutant, became in rows
        if became == "survived"
    ]
    return {"packages": packages, "survivors": survivors}


if __name__ == "__main__":
    main()
