"""Read a run directory, finished or not, without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grokscope.runs.files import RunError, inside, read_yaml_mapping
from grokscope.runs.history import History
from grokscope.runs.later_rows import LaterRows
from grokscope.runs.rows import KEYS, METRICS, TIMING, Row, RowFile
from grokscope.runs.side_files import (
    CHECKPOINTS,
    ENV,
    LOCK,
    RESULTS,
    SPEC,
    STATUS,
    check_links,
    holds_run,
    read_side_file,
)
from grokscope.runs.tensors import Arrays, load_state
from grokscope.shown import shown

# Runs were recorded with these names before all of them were spelled as PyTorch spells.
_SPELLED_BEFORE = {
    "memorised": "memorized",
    "generalised": "generalized",
    "generalisation": "generalization",
}


@shown()
class Run:
    """A run directory opened for reading.

    Args:
        path: the folder.
        lenient: whether a missing or damaged ``env.json``, ``status.json`` or ``results.json`` is
            read as empty and named in ``problems``; otherwise it is an error. The spec and the
            rows have to be whole in either case.

    Raises:
        RunError: if the folder is missing or holds no run, or something in it is a link that leads
            out of it.
    """

    def __init__(self, path: str | Path, *, lenient: bool = False) -> None:
        self.path = Path(path)
        self._lenient = lenient
        if not self.path.is_dir():
            raise RunError(f"{path} is no folder; name a run directory, as in runs/digits-grokking")
        if not holds_run(self.path):
            raise RunError(f"{path} holds no run: there is no {SPEC} in it{_runs_below(self.path)}")
        check_links(self.path)

    def _shown(self) -> dict[str, Any]:
        rows = sum(map(len, self.histories.values()))
        return {
            "name": self.name,
            "title": self.title,
            "state": self.state,
            "conditions": ", ".join(self.arms),
            "trainings": len(self.trials),
            "rows": rows,
            "folder": str(self.path),
        }

    def lenient(self) -> Run:
        """The same run, opened leniently."""
        return Run(self.path, lenient=True)

    @property
    def spec_file(self) -> Path:
        """Where the experiment stands, resolved."""
        return self.path / SPEC

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The resolved experiment.

        Raises:
            RunError: if it cannot be read, or its arms, milestones or panels are none.
        """
        path = self.spec_file
        spec = read_yaml_mapping(path)
        if faults := list(_faults(spec)):
            raise RunError(f"{path} does not describe an experiment: {'; '.join(faults)}")
        return spelled_now(spec)

    @cached_property
    def name(self) -> str:
        """The name of the experiment, or else of the folder."""
        return str(self.spec.get("name") or self.path.resolve().name)

    @property
    def title(self) -> str:
        """The title of the experiment, or else its name."""
        return str(self.spec.get("title") or self.name)

    @cached_property
    def env(self) -> dict[str, Any]:
        """Versions, machine, device, seeds, command."""
        return self._side_file(ENV)

    @cached_property
    def status(self) -> dict[str, Any]:
        """State of the run and of its trials; a run whose process is gone reads ``killed``."""
        status = self._side_file(STATUS)
        if status.get("state") == "running" and not self._in_use():
            status["state"] = "killed"
        return status

    @property
    def state(self) -> str:
        """How the run stands: finished, running, interrupted, failed, killed or unknown."""
        return str(self.status.get("state", "unknown"))

    @cached_property
    def results(self) -> dict[str, Any]:
        """Values computed after training; empty where there are none."""
        return spelled_now(self._side_file(RESULTS)) if (self.path / RESULTS).exists() else {}

    @property
    def results_of_seeds(self) -> list[dict[str, Any]]:
        """The results of each run that this is made of: its own alone."""
        return [self.results]

    @property
    def problems(self) -> list[str]:
        """What is lost, or could not be read where a run was opened leniently, a sentence each."""
        files = [ENV, STATUS, *([RESULTS] if (self.path / RESULTS).exists() else [])]
        unread = [fault for name in files if (fault := _fault(self.path / name))]
        return [*unread, *self._lost_rows()]

    def _lost_rows(self) -> Iterator[str]:
        """Which files of rows end before trainings of which the status says that they finished."""
        try:
            trials = read_side_file(self.path / STATUS).get("trials") or {}
        except RunError:
            return  # which is told of itself
        for name, rows in ((METRICS, self._metrics), (TIMING, self._timing)):
            last: dict[str, int] = {}
            for row in rows:
                trial = f"{row['arm']}/seed-{row['seed']}"
                last[trial] = max(row["step"], last.get(trial, -1))
            lost = [
                trial
                for trial, of in trials.items()
                if type(of.get("steps")) is int and last.get(trial, -1) < of["steps"]
            ]
            if lost:
                yield (
                    f"{self.path / name} lacks rows of {len(lost)} finished training(s), "
                    f"{lost[0]} the first of them: put the whole file back"
                )

    @cached_property
    def histories(self) -> dict[tuple[str, int], History]:
        """The rows of each (arm, seed) that has any, in the order in which they were run.

        The seconds are among them, and what was measured after training.

        Raises:
            RunError: if a line of the rows is damaged.
        """
        seconds = {(row["arm"], row["seed"], row["step"]): row for row in self._timing}
        rows: dict[tuple[str, int], list[Row]] = {}
        for row in self._metrics:
            rows.setdefault((row["arm"], row["seed"]), []).append(row)
        histories = {}
        for (arm, seed), own in rows.items():
            later = {row["step"]: row for row in LaterRows(self.path, arm, seed).read()}
            # Training's own values win: they may be of all test points, later ones of a few.
            histories[arm, seed] = History(
                {**later.get(row["step"], {}), **row, **seconds.get((arm, seed, row["step"]), {})}
                for row in own
            )
        return histories

    def history(self, arm: str, seed: int) -> History:
        """The rows of one trial; none where it was not begun."""
        return self.histories.get((arm, seed), History())

    def histories_of(self, arm: str) -> list[History]:
        """The rows of one arm, a history for each seed."""
        return [history for (name, _), history in self.histories.items() if name == arm]

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Every (arm, seed) that has rows, in the order in which they were run."""
        return list(self.histories)

    @property
    def arms(self) -> list[str]:
        """The arms of the spec in its order, then any that only the rows know."""
        known = [*(self.spec.get("arms") or {}), *(arm for arm, _ in self.trials)]
        return list(dict.fromkeys(known))

    def arm_spec(self, arm: str) -> dict[str, Any]:
        """What the spec says of an arm; empty for one that only the rows know."""
        return dict((self.spec.get("arms") or {}).get(arm, {}))

    def arm_title(self, arm: str) -> str:
        """The title of an arm, or else its name."""
        return str(self.arm_spec(arm).get("title") or arm)

    def seeds(self, arm: str) -> list[int]:
        """The seeds of one arm that have rows."""
        return [seed for name, seed in self.trials if name == arm]

    def trial_status(self, arm: str, seed: int) -> dict[str, Any]:
        """What the status file says of one trial."""
        return dict(self.status.get("trials", {}).get(f"{arm}/seed-{seed}", {}))

    def arrays(self, arm: str, seed: int, name: str) -> dict[str, Any] | None:
        """Tensors stored under a name, or None."""
        return Arrays(self.path, arm, seed).arrays(name)

    def array_names(self, arm: str, seed: int) -> list[str]:
        """The names under which a trial stored tensors, sorted."""
        return Arrays(self.path, arm, seed).array_names()

    def checkpoint(self, arm: str, seed: int, step: int | None = None) -> dict[str, Any]:
        """The kept checkpoint of a step, or the latest one."""
        name = "latest" if step is None else f"step-{step:08d}"
        return load_state(
            inside(self.path, CHECKPOINTS, arm, f"seed-{seed}", f"{name}.safetensors")
        )

    def checkpoint_steps(self, arm: str, seed: int) -> list[int]:
        """The steps whose checkpoints were kept."""
        folder = inside(self.path, CHECKPOINTS, arm, f"seed-{seed}")
        names = (path.stem.removeprefix("step-") for path in folder.glob("step-*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    @cached_property
    def _metrics(self) -> list[Row]:
        return RowFile(self.path / METRICS, KEYS).read()

    @cached_property
    def _timing(self) -> list[Row]:
        return RowFile(self.path / TIMING, KEYS).read()

    def _side_file(self, name: str) -> dict[str, Any]:
        try:
            return read_side_file(self.path / name)
        except RunError:
            if self._lenient:
                return {}
            raise

    def _in_use(self) -> bool:
        try:
            with FileLock(self.path / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only copy of a run: nothing can be working on it
            return False


def spelled_now(recorded: Any) -> Any:
    """A recorded spec, or results, with the names of milestones and columns as they are now.

    Example:
        >>> spelled_now({"milestones": {"memorised": {}}, "arms": {"memorised": {}}})
        {'milestones': {'memorized': {}}, 'arms': {'memorised': {}}}
    """
    if isinstance(recorded, str):
        return ".".join(_SPELLED_BEFORE.get(name, name) for name in recorded.split("."))
    if isinstance(recorded, list):
        return [spelled_now(part) for part in recorded]
    if isinstance(recorded, dict):
        own = ("arm", "arms", "baseline")  # the names of arms are the user's
        return {
            spelled_now(key): part if key in own else spelled_now(part)
            for key, part in recorded.items()
        }
    return recorded


def _faults(spec: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a spec from being shown."""
    for part in ("arms", "milestones"):
        entries = spec.get(part) or {}
        if not isinstance(entries, dict):
            yield f"{part} is not a mapping"
            continue
        for name, entry in entries.items():
            if not isinstance(name, str):
                yield f"{part}.{name} is not a name"
            elif not isinstance(entry, dict):
                yield f"{part}.{name} is not a mapping"
            elif part == "milestones" and not (
                isinstance(entry.get("metric"), str) and type(entry.get("target")) in (int, float)
            ):
                yield f"{part}.{name} needs a metric and a target, a number"
            elif part == "arms" and not isinstance(entry.get("methods") or [], (list, tuple)):
                yield f"{part}.{name}.methods is not a list"
    for part in ("panels", "claims", "seeds"):
        if not isinstance(spec.get(part) or [], (list, tuple)):
            yield f"{part} is not a list"
        elif part == "seeds" and any(type(seed) is not int for seed in spec.get(part) or []):
            yield "seeds are not whole numbers"


def _fault(path: Path) -> str | None:
    """Why a file cannot be read; None where it can."""
    try:
        read_side_file(path)
    except RunError as error:
        return str(error)
    return None


def _runs_below(folder: Path) -> str:
    """A word on the runs in a folder of runs, where that was named in place of one of them."""
    found = sorted(str(path.parent) for path in folder.glob(f"*/{SPEC}"))
    return f"; name the runs in it, as {found[0]}" if found else ""
