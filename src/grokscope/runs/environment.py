"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "scikit-learn")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


# What the settings of a checkout could have git run while it only looks.
_NO_PROGRAMS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", *_NO_PROGRAMS, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _is_dirty(folder: Path) -> bool | None:
    """Whether a checkout has changes.

    None where its own settings name filters: to compare its files, git would run them.
    """
    filters = _git(folder, "config", "--show-scope", "--name-only", "--get-regexp", r"^filter\.")
    if any(not line.startswith(("system", "global")) for line in (filters or "").splitlines()):
        return None
    # a submodule has settings of its own: only its commit is looked at
    return bool(_git(folder, "status", "--porcelain", "--ignore-submodules=dirty"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def environment(device: str, seeds: list[int]) -> dict[str, Any]:
    """Versions, machine, device, seeds, git commit of the working folder, command and time."""
    from grokscope._version import __version__

    commit = _git(Path.cwd(), "rev-parse", "HEAD")
    return {
        "grokscope": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "accelerator": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "seeds": seeds,
        "git_commit": commit,
        "git_dirty": _is_dirty(Path.cwd()) if commit else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": now(),
    }
