"""Trainings of one arm that go on in step, with one checkpoint to resume from for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grokscope.runs.directory import Trial
from grokscope.runs.files import RunError
from grokscope.runs.history import History
from grokscope.runs.tensors import load_state, save_state


class TrialGroup:
    """The trials of the seeds that are trained together, one or several.

    Their rows interleave, so no trial can go back to a checkpoint of its own: they share one,
    ``checkpoints/ARM/resume.safetensors``, until all are finished. A trial that finishes writes
    its own last checkpoint.

    Args:
        trials: of one arm of a run, in the order of the seeds.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.run = trials[0].run
        self.path = trials[0].latest.parents[1] / "resume.safetensors"

    def has_begun_together(self) -> bool:
        """Whether these, and no others, were trained together before and did not all finish."""
        return self._saved()["seeds"] == [trial.seed for trial in self.trials]

    def has_begun_apart(self) -> bool:
        """Whether some of them went on without the others."""
        begun = self.path.exists() or any(trial.latest.exists() for trial in self.trials)
        return begun and not self.has_begun_together()

    def save_checkpoint(self, step: int, states: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the checkpoint.

        Args:
            step: that all of them are at.
            states: by seed, of those that are not finished.
        """
        self.run.check_presence()
        seeds = [trial.seed for trial in self.trials]
        sizes = self.run.sizes()
        save_state(self.path, {"step": step, "seeds": seeds, "states": states, "sizes": sizes})

    def histories(self) -> dict[int, History]:
        """The rows of each training so far, by seed; the file is read once for all of them."""
        own = {(trial.arm, trial.seed): History() for trial in self.trials}
        for row in self.run.metrics.read():
            if (trial := (row["arm"], row["seed"])) in own:
                own[trial].append(row)
        return {seed: history for (_, seed), history in own.items()}

    def restore(self) -> dict[int, dict[str, Any] | None]:
        """By seed the state to go on from, with later rows taken back; None at the start.

        Raises:
            RunError: if rows from before a checkpoint were changed or lost.
        """
        saved = self._saved()
        states = {
            trial.seed: {**saved["states"][trial.seed], "step": saved["step"]}
            if trial.seed in saved["states"]
            else trial.finished()
            for trial in self.trials
        }
        if any(trial.seed in saved["states"] for trial in self.trials):
            self.run.truncate(saved["sizes"], self.path)
        elif not all(states.values()):  # stopped before its first checkpoint: nothing counts
            self.run.drop_rows(lambda row: any(trial.owns(row) for trial in self.trials))
            return {trial.seed: None for trial in self.trials}
        # a checkpoint of those that go on need not stand at the step of a row
        over = {seed: of for seed, of in states.items() if of and seed not in saved["states"]}
        self._check_rows({seed: of["step"] for seed, of in over.items()})
        return states

    def _check_rows(self, steps: Mapping[int, int]) -> None:
        """Raise where a training that is over has no row at its last step."""
        histories = self.histories() if steps else {}
        for seed, step in steps.items():
            if not any(row["step"] >= step for row in histories[seed]):
                raise RunError(
                    f"{self.run.metrics.path} lacks rows of {self.trials[0].arm}, seed {seed}, "
                    f"which ended at step {step}: put the whole file back, or start again in "
                    "another folder"
                )

    def rescue(
        self,
        step: int,
        states: Mapping[int, Mapping[str, Any]],
        over: Mapping[int, Mapping[str, Any]],
        histories: Mapping[int, History],
    ) -> Path:
        """Save what is in memory as a run of its own, for the run's folder has gone.

        Args:
            step: that those are at which go on.
            states: by seed, of those that go on.
            over: the last checkpoints of those that have finished, each with its ``step``.
            histories: the rows of all.

        Returns:
            The folder, which can be resumed.
        """
        run = self.run.begin_beside()
        try:
            trials = {trial.seed: run.trial(trial.arm, trial.seed) for trial in self.trials}
            rows = [(row["step"], seed, row) for seed in trials for row in histories[seed]]
            # as they came: step by step, the seeds in their order
            for _, seed, row in sorted(rows, key=lambda entry: entry[0]):
                run.metrics.append({"arm": trials[seed].arm, "seed": seed, **row})
            for seed, state in over.items():
                trials[seed].save_checkpoint(state["step"], state, keep=False, finished=True)
            TrialGroup(list(trials.values())).save_checkpoint(step, states)
        finally:
            run.close("interrupted", f"{self.run.path} was removed or moved while it was written")
        return run.path

    def close(self) -> None:
        """Remove the checkpoint: all trials have finished.

        Where seeds are trained one after another, the file may be that of a later one.
        """
        if self.has_begun_together():
            self.path.unlink()

    def _saved(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"states": {}, "seeds": []}
        return load_state(self.path, needs=("step", "seeds", "states", "sizes"))
