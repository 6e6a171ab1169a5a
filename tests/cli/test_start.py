"""What needs no training starts without torch, in less than half of its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import grokscope
from grokscope import experiments, runs
from grokscope.lazy_names import stub_names
from tests.cli.running import environment

WITHOUT_TORCH = """
import sys
from grokscope.cli import main
sys.argv = ["grokscope", *sys.argv[1:]]
try:
    main()
finally:
    found = [name for name in ("torch", "sklearn", "scipy", "plotly", "matplotlib", "pandas")
             if name in sys.modules]
    print("loaded:", *found)
"""


def cpu_seconds(*arguments: str, folder: Path) -> float:
    """The time that a Python process works."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(), check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["list"],
        ["list", "--json"],
        ["run", "digits-groking"],
        ["run", "digits-grokking", "--preset", "quik"],
        ["run", "digits-grokking", "--set", "arms.baselin.title=x"],
        ["reproduce", "grokalign/fig77"],
    ],
    ids=" ".join,
)
def test_torch_is_not_loaded(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_list_take_less_than_0_4_of_torch(tmp_path: Path) -> None:
    torch = min(cpu_seconds("-c", "import torch", folder=tmp_path) for _ in range(2))
    for command in ("--help", "list"):
        own = min(cpu_seconds("-m", "grokscope", command, folder=tmp_path) for _ in range(2))
        assert own < 0.4 * torch, command


def test_importing_grokscope_loads_nothing_else(tmp_path: Path) -> None:
    code = "import sys, grokscope; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=True)


@pytest.mark.parametrize("package", [grokscope, runs, experiments], ids=lambda p: p.__name__)
def test_every_listed_name_is_there(package: object) -> None:
    stub = Path(str(package.__file__)).with_suffix(".pyi")  # type: ignore[attr-defined]
    names = stub_names(stub)
    assert names
    assert sorted(names) == package.__all__ == dir(package)  # type: ignore[attr-defined]
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]


def test_packages_are_attributes_without_an_import_of_their_own() -> None:
    code = "import grokscope as gs; gs.measures; gs.findings.onset"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
