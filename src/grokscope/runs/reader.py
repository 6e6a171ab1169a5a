"""Read a run directory, finished or not, without changing it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from grokscope.runs.directory import SPEC, STATUS
from grokscope.runs.files import RunError, read_json
from grokscope.runs.history import History
from grokscope.runs.later_rows import LaterRows
from grokscope.runs.rows import Row, RowFile
from grokscope.runs.tensors import load_state


class Run:
    """A run directory opened for reading.

    Args:
        path: the folder.

    Raises:
        RunError: the folder is missing or holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise RunError(f"{path} is no folder; name a run directory, as in runs/digits-grokking")
        if not (self.path / SPEC).exists():
            raise RunError(f"{path} holds no run: there is no {SPEC} in it")

    @property
    def spec_file(self) -> Path:
        """Where the experiment stands, resolved."""
        return self.path / SPEC

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved experiment."""
        path = self.spec_file
        try:
            spec = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{path} is not valid YAML: {reason}") from None
        if not isinstance(spec, dict):
            raise RunError(f"{path} does not describe an experiment: it is not a mapping")
        return spec

    @cached_property
    def env(self) -> dict[str, Any]:
        """Versions, machine, device, seeds, command."""
        return _mapping(self.path / "env.json")

    @cached_property
    def status(self) -> dict[str, Any]:
        """State of the run and of its trials; a run whose process is gone reads ``killed``."""
        status = _mapping(self.path / STATUS)
        if status.get("state") == "running" and not self._in_use():
            status["state"] = "killed"
        return status

    @cached_property
    def results(self) -> dict[str, Any]:
        """Figures computed after training; empty where there are none."""
        path = self.path / "results.json"
        return _mapping(path) if path.exists() else {}

    @property
    def results_of_seeds(self) -> list[dict[str, Any]]:
        """The results of each run that this is made of: its own alone."""
        return [self.results]

    @cached_property
    def trials(self) -> list[tuple[str, int]]:
        """Every (arm, seed) that has rows, in the order in which they were run."""
        return list(dict.fromkeys((row["arm"], row["seed"]) for row in self._metrics))

    @property
    def arms(self) -> list[str]:
        """The arms that have rows, in the order in which they were run."""
        return list(dict.fromkeys(arm for arm, _ in self.trials))

    def seeds(self, arm: str) -> list[int]:
        """The seeds of one arm."""
        return [seed for name, seed in self.trials if name == arm]

    def history(self, arm: str, seed: int) -> History:
        """The values of one trial, with the seconds and what was measured after training."""
        seconds = {row["step"]: row for row in _of(self._timing, arm, seed)}
        later = {row["step"]: row for row in LaterRows(self.path, arm, seed).read()}
        rows = _of(self._metrics, arm, seed)
        # Training's own values win: they may be of all test points, later ones of a few.
        return History(
            {**later.get(row["step"], {}), **row, **seconds.get(row["step"], {})} for row in rows
        )

    def arrays(self, arm: str, seed: int, name: str) -> dict[str, Any] | None:
        """Tensors stored under a name, or None."""
        path = self.path / "arrays" / arm / f"seed-{seed}" / f"{name}.safetensors"
        return load_state(path) if path.exists() else None

    def array_names(self, arm: str, seed: int) -> list[str]:
        """The names under which a trial stored tensors, sorted."""
        folder = self.path / "arrays" / arm / f"seed-{seed}"
        return sorted(path.stem for path in folder.glob("*.safetensors"))

    def checkpoint(self, arm: str, seed: int, step: int | None = None) -> dict[str, Any]:
        """The kept checkpoint of a step, or the latest one."""
        name = "latest" if step is None else f"step-{step:08d}"
        return load_state(self.path / "checkpoints" / arm / f"seed-{seed}" / f"{name}.safetensors")

    def checkpoint_steps(self, arm: str, seed: int) -> list[int]:
        """The steps whose checkpoints were kept."""
        folder = self.path / "checkpoints" / arm / f"seed-{seed}"
        return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*"))

    @cached_property
    def _metrics(self) -> list[Row]:
        return _rows(self.path / "metrics.jsonl")

    @cached_property
    def _timing(self) -> list[Row]:
        return _rows(self.path / "timing.jsonl")

    def _in_use(self) -> bool:
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only copy of a run: nothing can be working on it
            return False


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it does not hold a JSON object")
    return content


def _rows(path: Path) -> list[Row]:
    rows = RowFile(path).read()
    for number, row in enumerate(rows, 1):
        missing = [name for name in ("arm", "seed", "step") if name not in row]
        if missing:
            raise RunError(f"{path}, line {number} is damaged: it has no {missing[0]}")
    return rows


def _of(rows: list[Row], arm: str, seed: int) -> list[Row]:
    return [row for row in rows if row["arm"] == arm and row["seed"] == seed]
