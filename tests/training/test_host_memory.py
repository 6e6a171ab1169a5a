"""Freed memory that a process keeps: counted in the page faults of a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment, runner

# twenty times the same 48 MB, which glibc by itself gives back each time
COUNT = """
import resource, torch, grokscope as gs
{call}
torch.empty(12_000_000).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(12_000_000).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    """Page faults of the twenty, in a process where nothing is said of memory."""
    unsaid = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    command = [sys.executable, "-c", COUNT.format(call=call)]
    done = subprocess.run(command, env=unsaid, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_pages_are_asked_for_once() -> None:
    # by one or two of the twenty, as memory happens to lie, in place of all
    assert faults("assert gs.keep_freed_memory()") < faults("") / 5


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("malloc was told otherwise"))
    monkeypatch.setenv(name, "1")
    assert gs.keep_freed_memory() is False


def test_nothing_is_done_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert gs.keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("looked for a C library"))
    assert gs.keep_freed_memory() is False


def test_a_refusal_of_the_c_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "MALLOC" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 0))
    assert gs.keep_freed_memory() is False


def test_an_experiment_keeps_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[None] = []
    monkeypatch.setattr(runner, "keep_freed_memory", lambda: calls.append(None))
    settings = ["training.max_steps=1", "seeds=[0]"]
    run_experiment(
        load_experiment("digits-grokking", "quick", settings), tmp_path / "run", device="cpu"
    )
    assert calls
