"""One training inside a run directory: its rows, its arrays, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from grokscope.runs.history import History
from grokscope.runs.tensors import load_state, save_state

if TYPE_CHECKING:
    from grokscope.runs.directory import RunDirectory


class Trial:
    """Where one training writes, and finds again what it wrote before it was stopped.

    Args:
        run: the run directory, open for writing.
        arm: name of the experiment's arm.
        seed: seed of this training.
    """

    def __init__(self, run: RunDirectory, arm: str, seed: int) -> None:
        self.run = run
        self.arm = arm
        self.seed = seed
        self._checkpoints = run.path / "checkpoints" / arm / f"seed-{seed}"
        self._arrays = run.path / "arrays" / arm / f"seed-{seed}"

    @property
    def latest(self) -> Path:
        """The checkpoint of the last step."""
        return self._checkpoints / "latest.safetensors"

    def append(self, row: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Write the figures of one evaluation, ``row["step"]`` among them, and the time so far."""
        key = {"arm": self.arm, "seed": self.seed}
        self.run.metrics.append({**key, **row})
        self.run.timing.append({**key, "step": row["step"], **seconds})

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Write tensors under ``arrays/ARM/seed-S/NAME.safetensors``."""
        save_state(self._arrays / f"{name}.safetensors", dict(arrays))

    def arrays(self, name: str) -> dict[str, Tensor] | None:
        """The tensors written under a name; None where there are none."""
        path = self._arrays / f"{name}.safetensors"
        return load_state(path) if path.exists() else None

    def drop_arrays(self, name: str) -> None:
        """Remove the tensors under a name, if there are any."""
        (self._arrays / f"{name}.safetensors").unlink(missing_ok=True)

    def save_checkpoint(
        self, step: int, state: Mapping[str, Any], *, keep: bool, finished: bool
    ) -> None:
        """Write the checkpoint of a step: under its own name to be kept, or as the last."""
        content = {**state, "step": step, "finished": finished}
        if keep:
            save_state(self._checkpoints / f"step-{step:08d}.safetensors", content)
        if finished:
            save_state(self.latest, content)

    def finished(self) -> dict[str, Any] | None:
        """The last checkpoint of a training that is over; None of one that is not."""
        state = load_state(self.latest) if self.latest.exists() else {"finished": False}
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
