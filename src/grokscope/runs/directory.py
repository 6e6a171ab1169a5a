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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grokscope.runs.environment import environment, now
from grokscope.runs.files import RunError, dump_yaml, write_atomically, write_json
from grokscope.runs.rows import KEYS, RowFile
from grokscope.runs.side_files import ENV, RESULTS, SPEC, STATUS, read_side_file
from grokscope.runs.trial import Trial


class RunDirectory:
    """A run directory opened for writing, by one process at a time.

    Use ``create`` or ``resume``; as a context manager it releases the directory at the end and
    records whether the run finished, failed or was interrupted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = RowFile(path / "metrics.jsonl", KEYS)
        self.timing = RowFile(path / "timing.jsonl", KEYS)
        self.status: dict[str, Any] = {}
        path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{path} is in use by another process; wait for it, or name another folder "
                "with --out"
            ) from None

    @classmethod
    def create(
        cls, path: str | Path, spec: Mapping[str, Any], device: str, seeds: list[int]
    ) -> RunDirectory:
        """Start a run in a new or empty folder.

        Raises:
            RunError: the folder holds a run already, is in use, or cannot be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; name a folder with --out")
        if (path / SPEC).exists():
            raise RunError(
                f"{path} holds a run already; go on with --resume, or name another folder "
                "with --out"
            )
        try:
            run = cls(path)
        except OSError as error:
            raise RunError(f"could not create {path}: {error.strerror or error}") from error
        write_json(path / ENV, environment(device, seeds))
        run._write_status(state="running", started=now(), trials={})
        # The spec comes last: a folder that has one holds all that resuming needs.
        write_atomically(path / SPEC, dump_yaml(spec).encode())
        return run

    @classmethod
    def resume(cls, path: str | Path, device: str) -> RunDirectory:
        """Open a run that was stopped or killed, its torn last lines trimmed.

        Raises:
            RunError: there is no run in the folder, or another process works on it.
        """
        path = Path(path)
        if not (path / SPEC).exists():
            raise RunError(f"{path} holds no run to resume: there is no {SPEC} in it")
        run = cls(path)
        try:
            env, run.status = read_side_file(path / ENV), read_side_file(path / STATUS)
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
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", arm):
            raise RunError(f"{arm!r} is no name for an arm: use letters, digits and . _ = + -")
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

    def drop_rows(self, condition: Callable[[Mapping[str, Any]], bool]) -> None:
        """Take back the last rows as far as they all meet a condition."""
        self.metrics.drop_tail(condition)
        self.timing.drop_tail(condition)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace the values that were computed after training."""
        write_json(self.path / RESULTS, dict(results))

    def close(self, state: str, error: str | None = None) -> None:
        """Record how the run ended and let others open it."""
        try:
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
