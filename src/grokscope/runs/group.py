"""Trainings of one arm that go on in step, with one checkpoint for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grokscope.runs.tensors import load_state, save_state
from grokscope.runs.trial import Trial


class TrialGroup:
    """The trials of several seeds that are trained together.

    Their rows interleave, so no trial can go back to a checkpoint of its own: they share one,
    ``checkpoints/ARM/together.safetensors``, until all are finished. A trial that finishes before
    the others writes its own last checkpoint like any other.

    Args:
        trials: of one arm of a run, in the order of the seeds.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.run = trials[0].run
        self.path = trials[0].latest.parents[1] / "together.safetensors"

    def has_begun_together(self) -> bool:
        """Whether they were trained together before and did not all finish."""
        return self.path.exists()

    def has_begun_apart(self) -> bool:
        """Whether one of them went on alone."""
        return not self.path.exists() and any(trial.latest.exists() for trial in self.trials)

    def save_checkpoint(self, step: int, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the common checkpoint.

        Args:
            step: that all of them are at.
            states: by seed, of those that are not finished.
        """
        save_state(self.path, {"step": step, "states": states, "sizes": self.run.sizes()})

    def restore(self) -> dict[int, dict[str, Any] | None]:
        """By seed the state to go on from, with later rows taken back; None at the start."""
        saved = load_state(self.path) if self.path.exists() else {"states": {}}
        if not saved["states"]:
            self.run.drop_rows(lambda row: any(trial.owns(row) for trial in self.trials))
            return {trial.seed: None for trial in self.trials}
        self.run.truncate(saved["sizes"], self.path)
        return {
            trial.seed: {**saved["states"][trial.seed], "step": saved["step"]}
            if trial.seed in saved["states"]
            else load_state(trial.latest)
            for trial in self.trials
        }

    def close(self) -> None:
        """Remove the common checkpoint: all trials have finished."""
        self.path.unlink(missing_ok=True)
