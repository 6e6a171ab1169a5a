"""Do the tests notice a change of the code? Random mutants, and what became of them.

    python benchmarks/mutate.py --minutes 20 --seed 0 --package measures

A mutant is the source with one place changed: a comparison, an operator, a number, `and` for `or`,
a condition negated, or a returned value replaced by None. It is tried on the docstring examples of
its file and on the six test files nearest to it by the names that they mention, as far as these
take two minutes of the processor together; where none of them notices, on the other files of its
package's tests, for five minutes. It is noticed where a test fails, or does not come to its end,
that passes at the same moment with the code as it is: a busy machine or a test that is broken
anyhow notices nothing. All happens in a copy of the checkout without comments, as the mutants are,
in children of a process that has torch loaded. Packages take turns, so that a short run samples all
of them.

Mutants that no test could notice are named in ``benchmarks/equivalent_mutants.json``, each with the
reason, and are not counted. What was found goes to ``--out`` as JSON, the survivors by place; with
``--part`` under a name of its own, beside what the file holds.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
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
# the nearest tests of a mutant have so many seconds of the processor, then the others of its
# package, and either so many by the clock
_LONGEST, _OTHERS, _STUCK = 120.0, 300.0, 900.0
_NEAREST = 6
_IMPORTED = (
    "numpy", "scipy.stats", "scipy.optimize", "sklearn.datasets", "pydantic", "typer", "rich",
    "safetensors.torch", "jinja2", "pooch", "yaml", "filelock", "joblib", "torch.func",
    "torch._dynamo", "beartype", "matplotlib.pyplot",
)  # fmt: skip

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


def tests_of(file: str, line: int) -> tuple[list[str], list[str]]:
    """The test files that are nearest to a line, and the others of its package.

    Near are those that share the most of the folders, the module's name, and the names of what the
    line stands in and of what calls that, at most six.
    """
    tree = ast.parse((SOURCE / file).read_text("utf-8"))
    named = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    around = {
        name
        for name, node in named.items()
        if node.lineno <= line <= (node.end_lineno or node.lineno)
    }
    callers = set(around)
    for _ in named:
        callers |= {name for name, node in named.items() if callers & _names_in(node)}
    public = {name for name in named if not name.startswith("_")}
    module = Path(file).with_suffix("")
    scores = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text("utf-8")
        if "pytest.mark.slurm" in text:
            continue
        score = 8.0 * (path.stem == f"test_{module.name}") + 3.0 * (module.name in path.stem)
        score += 4.0 * (".".join(["grokscope", *module.parts]) in text)
        for depth, part in enumerate(module.parts[:-1], start=1):
            score += 2.0 * depth * (part in path.relative_to(ROOT).parts)
        for names, weight in (
            (around, 3.0), (callers - around, 2.0), (public - callers, 1.0), ({module.name}, 1.5),
        ):  # fmt: skip
            score += weight * sum(bool(re.search(rf"\b{name}\b", text)) for name in names)
        if "pytest.mark.browser" in text:  # a browser has to be started
            score /= 2
        scores[str(path.relative_to(ROOT))] = score
    best = sorted(scores, key=lambda path: (-scores[path], path))
    near = [path for path in best[:_NEAREST] if scores[path] > 2]
    package = f"tests/{module.parts[0]}/"
    others = [path for path in best if path.startswith(package) and path not in near]
    # a docstring's example is a test as well
    return [f"src/grokscope/{file}", *near], others


def _names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


class Noted:
    """A plugin of pytest that writes down which test began and which failed, as it goes.

    Args:
        file: where.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def _note(self, word: str, test: str) -> None:
        with self.file.open("a") as file:
            print(word, test, file=file)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._note("began", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test is over."""
        if report.failed:
            self._note("failed", report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file was read."""
        if report.failed:
            self._note("unread", report.nodeid)


class Checkout:
    """A copy of the checkout that mutants are written into, as processes of the tests read it too.

    Args:
        folder: where the copy is made; data beside the checkout are linked.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self._notes = folder / "checkout", folder / "notes"
        plain = shutil.ignore_patterns("__pycache__", "_build")
        for name in ("src", "tests", "docs", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, self.root / name, ignore=plain)
        for file in ROOT.glob("*.*"):
            if file.is_file():
                shutil.copy(file, self.root)
        for file in (self.root / "src").rglob("*.py"):  # what reads the text sees no difference
            file.write_text(ast.unparse(ast.parse(file.read_text("utf-8"))), "utf-8")
        if (ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to(ROOT.parent / "shared")
        # tests that fail or take too long with the code as it is
        self._left_out: set[str] = set()

    def became(self, mutant: Mutant) -> str | None:
        """Whether it is "noticed", "noticed by time" or "survived".

        None where no test that is short enough looks at it.
        """
        near, others = tests_of(mutant.file, mutant.line)
        became = self._became(mutant, near, _LONGEST)
        if became != "survived":
            return became
        return self._became(mutant, others, _OTHERS) or became

    def _became(self, mutant: Mutant, files: Sequence[str], limit: float) -> str | None:
        """The same by some files of tests, which have so many seconds of the processor."""
        file = self.root / "src/grokscope" / mutant.file
        whole, change = file.read_text("utf-8"), ast.unparse(mutated(mutant))
        while tests := [test for test in files if test not in self._left_out]:
            self._write(file, change)
            try:
                word, where = self._run(tests, limit)
            finally:
                self._write(file, whole)
            if word == "passed":
                return "survived" if any(test.startswith("tests/") for test in tests) else None
            # the same with the code as it is, at the same moment
            if word == "slow":
                again, where = self._run(tests, limit)
            else:
                again, _ = self._run([where], limit, collect_only=word == "unread")
            if again == "passed":
                return "noticed by time" if word == "slow" else "noticed"
            self._left_out.add(where if word == "failed" else where.partition("::")[0])
        return None

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.write_text(text, "utf-8")
        # of files of one size that change within a second the compiled one would be the old one
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()

    def _run(
        self, tests: Sequence[str], limit: float, collect_only: bool = False
    ) -> tuple[str, str]:
        """What became of files or tests, and of which test in them.

        "passed", "failed", "unread" where a file cannot be imported, or "slow": they took more
        seconds of the processor than they may, or wait for what does not come.
        """
        self._notes.write_text("")
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(self._tested(tests, ["--collect-only"] if collect_only else []))
        begin, done, status = time.monotonic(), 0, 0
        while not done and _seconds_used(pid) < limit and time.monotonic() - begin < _STUCK:
            time.sleep(0.05)
            done, status = os.waitpid(pid, os.WNOHANG)
        if done and os.waitstatus_to_exitcode(status) in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "passed", tests[0]
        if not done:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        notes = [line.split(" ", 1) for line in self._notes.read_text().splitlines()]
        if done:
            first = next(((word, at) for word, at in notes if word != "began"), None)
            return first or ("unread", tests[0])
        return "slow", notes[-1][1] if notes else tests[-1]

    def _tested(self, tests: Sequence[str], options: Sequence[str]) -> int:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        try:
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root / "src")
            sys.path[:0] = [str(self.root / "src"), str(self.root)]
            plain = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", *options]
            left_out = [f"--deselect={each}" for each in self._left_out if "::" in each]
            return int(pytest.main([*plain, *left_out, *tests], plugins=[Noted(self._notes)]))
        except BaseException:
            return 3


def _seconds_used(pid: int) -> float:
    """What a process and its children that are over have had of the processor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def load_what_tests_import() -> None:
    """Import it once, so that each child has it; nothing of grokscope, which mutants change."""
    for name in _IMPORTED:
        importlib.import_module(name)


def main() -> None:
    """Sample mutants for as long as asked, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", action="append", choices=PACKAGES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help="the sample's name in --out, beside what stands there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_what_tests_import()
    packages = arguments.package or PACKAGES
    rows: list[tuple[str, Mutant, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkout, draw = Checkout(Path(folder)), random.Random(arguments.seed)
        for row in sample(checkout, packages, draw, 60 * arguments.minutes):
            rows.append(row)
            found = {"seed": arguments.seed, "minutes": arguments.minutes, **counted(rows)}
            if arguments.out:  # as it goes: a sample that is ended early counts too
                keep(arguments.out, arguments.part, found)
    print(json.dumps(counted(rows), indent=1))


def keep(out: Path, part: str | None, found: dict[str, Any]) -> None:
    """Write a sample to a file, or as one of its parts."""
    if part is not None:
        before = json.loads(out.read_text("utf-8")) if out.exists() else {}
        found = {**before, part: found}
    out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


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
        none = {"noticed": 0, "noticed by time": 0, "survived": 0, "equivalent": 0}
        own = packages.setdefault(package, none)
        own[became] += 1
    for own in packages.values():
        noticed = own["noticed"] + own["noticed by time"]
        tried = noticed + own["survived"]
        own["share"] = round(noticed / tried, 3) if tried else None
    survivors = [
        {"line": mutant.line, "mutant": mutant.name}
        for _, mutant, became in rows
        if became == "survived"
    ]
    return {"packages": packages, "survivors": survivors}


if __name__ == "__main__":
    main()
