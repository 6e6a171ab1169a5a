"""A run directory: what was run, where, what came out, and how far it got.

    spec.yaml            the resolved experiment
    env.json             versions, machine, device, seeds, git commit, command
    status.json          state of the run and of each of its trials; replaced atomically
    metrics.jsonl        a row for each evaluation: arm, seed, step and the metrics
    timing.jsonl         a row for each evaluation: arm, seed, step and the seconds so far
    after_training/      ARM/seed-S.jsonl: a row for each kept checkpoint measured after training
    results.json         values computed after training, where an experiment has any
    arrays/              tensors too large for a row: ARM/seed-S/NAME.safetensors
    checkpoints/         ARM/seed-S/latest.safetensors, and step-N.safetensors where kept
    report.html          the page made of all this

A trial is one training: an arm of the experiment with one seed. Seconds stand apart from the
metrics so that ``metrics.jsonl`` of an interrupted and resumed run is byte for byte the one of an
uninterrupted run.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from grokscope.runs.environment import environment, now
from grokscope.runs.files import (
    NAME,
    NAME_TAKES,
    RunError,
    inside,
    read_bytes,
    write_atomically,
    write_json,
)
from grokscope.runs.history import History
from grokscope.runs.rows import KEYS, METRICS, TIMING, RowFile
from grokscope.runs.side_files import (
    CHECKPOINTS,
    DATA,
    ENV,
    LOCK,
    RESULTS,
    SPEC,
    STATUS,
    check_links,
    holds_run,
    read_side_file,
)
from grokscope.runs.tensors import Arrays, load_state, save_state
from grokscope.runs.yaml_text import dump_yaml
from grokscope.shown import shown


@shown()
class RunDirectory:
    """A run directory opened for writing, by one process at a time.

    Use ``create`` or ``resume``; as a context manager it releases the directory at the end and
    records whether the run finished, failed or was interrupted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = RowFile(path / METRICS, KEYS)
        self.timing = RowFile(path / TIMING, KEYS)
        self.status: dict[str, Any] = {}
        self._spec = b""
        self._data: dict[str, str] = {}
        path.mkdir(parents=True, exist_ok=True)
        check_links(path)
        self._lock = FileLock(path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{path} is in use by another process; wait for it, or name another folder "
                "with --out"
            ) from None

    def _shown(self) -> dict[str, Any]:
        return {"path": str(self.path), "state": self.status.get("state", "not begun")}

    @classmethod
    def create(
        cls,
        path: str | Path,
        spec: Mapping[str, Any],
        device: str,
        seeds: list[int],
        data: Mapping[str, str] | None = None,
    ) -> RunDirectory:
        """Start a run in a new or empty folder; ``data`` are digests of data of one's own by arm.

        Raises:
            RunError: if the folder holds a run already, is in use, or cannot be written, or a link
                in it leads out of it.
        """
        path = Path(path)
        cls.check_free(path)
        try:
            run = cls(path)
        except OSError as error:
            raise RunError(f"could not create {path}: {error.strerror or error}") from error
        run._spec = dump_yaml(spec).encode()
        run._data = dict(data or {})
        run._begin(environment(device, seeds))
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise where no run could be started in a folder, existing or not.

        Raises:
            RunError: if it is a file, or holds a run or rows of one.
        """
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; name a folder with --out")
        if not holds_run(path) and (path / METRICS).exists():
            raise RunError(
                f"{path} holds rows of a run without its {SPEC}; put that back, or name another "
                "folder with --out"
            )
        if holds_run(path):
            raise RunError(
                f"{path} holds a run already; go on with --resume, or name another folder "
                "with --out"
            )

    @classmethod
    def resume(cls, path: str | Path, device: str) -> RunDirectory:
        """Open a run that was stopped or killed, its torn last lines trimmed.

        Raises:
            RunError: if there is no run in the folder, another process works on it, or a link in
                it leads out of it.
        """
        path = Path(path)
        if not (path / SPEC).exists():
            raise RunError(f"{path} holds no run to resume: there is no {SPEC} in it")
        run = cls(path)
        try:
            try:
                env, run.status = read_side_file(path / ENV), read_side_file(path / STATUS)
            except RunError as error:
                raise RunError(
                    f"{error}; put that file back, or start again in another folder with --out"
                ) from error
            run._spec = read_bytes(path / SPEC)
            run._data = env.get(DATA) or {}
            for partial in path.rglob(".*.partial"):  # what killed writes left
                partial.unlink()
            run.metrics.trim()
            run.timing.trim()
            again = environment(device, env.get("seeds") or [])
            write_json(path / ENV, {**env, "resumed": [*(env.get("resumed") or []), again]})
            run._write_status(state="running", error=None)
        except BaseException:
            run._lock.release()
            raise
        return run

    def trial(self, arm: str, seed: int) -> Trial:
        """The trial of one arm with one seed; its earlier rows and checkpoint are found again."""
        if not re.fullmatch(NAME, arm):
            raise RunError(f"{arm!r} is no name for an arm: use {NAME_TAKES}")
        return Trial(self, arm, seed)

    def record_trial(self, arm: str, seed: int, **entry: Any) -> None:
        """Note the state of a trial in the status file."""
        trials = dict(self.status.get("trials", {}))
        trials[f"{arm}/seed-{seed}"] = entry
        self._write_status(trials=trials)

    def sizes(self) -> dict[str, Any]:
        """The files of rows as they are, to which ``truncate`` goes back: bytes and digest."""
        files = {"metrics": self.metrics, "timing": self.timing}
        return {
            name: {"bytes": file.size(), "sha256": file.digest()} for name, file in files.items()
        }

    def truncate(self, sizes: Mapping[str, Any], checkpoint: Path) -> None:
        """Take back the rows that were written after a checkpoint.

        Raises:
            RunError: if the rows before it are not those of then.
        """
        for file, then in ((self.metrics, sizes["metrics"]), (self.timing, sizes["timing"])):
            # A checkpoint from before there were digests has the bytes alone.
            size, digest = (
                (then, None) if isinstance(then, int) else (then["bytes"], then["sha256"])
            )
            what = "is shorter" if file.size() < size else "has other rows"
            if file.size() < size or (digest is not None and file.digest(size) != digest):
                raise RunError(
                    f"{file.path} {what} than when {checkpoint} was written: it was changed since, "
                    "so this run cannot be resumed to the same numbers; put the file back, or "
                    "start again in another folder"
                )
            file.truncate(size)

    def check_presence(self) -> None:
        """Notice that the folder was removed or moved, rather than fill a new one without a spec.

        Raises:
            RunError: if it was.
        """
        if not (self.path / SPEC).exists():
            raise RunError(
                f"{self.path} was removed or moved while it was written: there is no {SPEC} in it"
            )

    def begin_beside(self) -> RunDirectory:
        """A new run of the same spec, for what is in memory of one whose folder has gone.

        It lies beside that folder, or where that cannot be written among the temporary files.
        """
        for place in _places_beside(self.path):
            try:
                run = RunDirectory(place)
            except (OSError, RunError):
                continue
            run._spec, run._data = self._spec, self._data
            run._begin(environment("cpu", []))
            return run
        raise RunError(f"{self.path} is gone, and what was in memory could be saved nowhere")

    def _begin(self, found: Mapping[str, Any]) -> None:
        write_json(self.path / ENV, {**found, **({DATA: self._data} if self._data else {})})
        self._write_status(state="running", started=now(), trials={})
        # The spec comes last: a folder that has one holds all that resuming needs.
        write_atomically(self.path / SPEC, self._spec)

    def drop_rows(self, condition: Callable[[Mapping[str, Any]], bool]) -> None:
        """Take back the rows that meet a condition."""
        self.metrics.drop(condition)
        self.timing.drop(condition)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace the values that were computed after training."""
        self.check_presence()
        write_json(self.path / RESULTS, dict(results))

    def close(self, state: str, error: str | None = None) -> None:
        """Record how the run ended and let others open it."""
        try:
            if (self.path / SPEC).exists():
                self._write_status(state=state, error=error, ended=now())
        finally:
            self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if kind is None:
            self.close("finished")
        elif issubclass(kind, KeyboardInterrupt):
            self.close("interrupted")
        else:
            self.close("failed", f"{kind.__name__}: {error}")

    def _write_status(self, **changes: Any) -> None:
        self.status = {**self.status, **changes, "pid": os.getpid(), "updated": now()}
        write_json(self.path / STATUS, self.status)


def _places_beside(path: Path) -> Iterator[Path]:
    """Where to save what was to be written to a folder that has gone, the best place first."""
    beside = path.with_name(f"{path.name}-rescued")
    if not beside.exists():
        yield beside
    yield Path(tempfile.mkdtemp(prefix=f"{path.name}-rescued-"))


@shown("arm", "seed", "run")
class Trial(Arrays):
    """Where one training writes, and finds again what it wrote before it was stopped.

    Args:
        run: the run directory, open for writing.
        arm: name of the experiment's arm.
        seed: seed of this training.

    Raises:
        RunError: if a name would lead out of the run directory.
    """

    def __init__(self, run: RunDirectory, arm: str, seed: int) -> None:
        super().__init__(run.path, arm, seed)
        self.run = run
        self.arm = arm
        self.seed = seed
        self._checkpoints = inside(run.path, CHECKPOINTS, arm, f"seed-{seed}")

    @property
    def latest(self) -> Path:
        """The checkpoint of the last step."""
        return self._checkpoints / "latest.safetensors"

    def append(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Write the metrics of one evaluation, ``row["step"]`` among them, and the time so far."""
        self.run.check_presence()
        key = {"arm": self.arm, "seed": self.seed}
        self.run.metrics.append({**key, **row})
        self.run.timing.append({**key, "step": row["step"], **seconds})

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Write tensors under a name, if the run directory is still there."""
        self.run.check_presence()
        super().save_arrays(name, arrays)

    def save_checkpoint(
        self, step: int, state: Mapping[str, Any], *, keep: bool, finished: bool
    ) -> None:
        """Write the checkpoint of a step: under its own name to be kept, or as the last."""
        self.run.check_presence()
        content = {**state, "step": step, "finished": finished}
        if keep:
            save_state(self._checkpoints / f"step-{step:08d}.safetensors", content)
        if finished:
            save_state(self.latest, content)

    def finished(self) -> dict[str, Any] | None:
        """The last checkpoint of a training that is over; None of one that is not."""
        if not self.latest.exists():
            return None
        state = load_state(self.latest, needs=("step", "finished"))
        return state if state["finished"] else None

    def history(self) -> History:
        """The rows of this training so far."""
        return History(row for row in self.run.metrics.read() if self.owns(row))

    def owns(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is of this training."""
        return row["arm"] == self.arm and row["seed"] == self.seed

    def finish(self, **summary: Any) -> None:
        """Note in the status file that this training is over, and with what."""
        self.run.record_trial(self.arm, self.seed, state="finished", **summary)
