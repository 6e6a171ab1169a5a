"""Runs of one experiment, a seed each in a directory of its own, read as one run of all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from grokscope.runs.files import RunError, read_yaml_mapping, write_atomically
from grokscope.runs.history import History
from grokscope.runs.reader import Run
from grokscope.runs.side_files import holds_run
from grokscope.runs.yaml_text import dump_yaml

EXPERIMENT = "experiment.yaml"
_STATES = ("running", "failed", "killed", "interrupted", "unknown")


class SeedRuns(Run):
    """A setting of a sweep: ``seed-S`` for each seed, beside the experiment that all of them run.

    Rows, arrays and checkpoints are those of the seeds that have been started, in the order of the
    experiment's seeds. ``results`` are the first seed's, as a panel shows them; a claim about a
    value in results.json is judged by that value of every seed.

    Args:
        path: the folder of the setting.
        command: what was typed to run the sweep.
        lenient: that of ``Run``, for the run of each seed; one whose rows cannot be read is then
            left out and named in ``problems``, as long as another can be.

    Raises:
        RunError: if the folder holds no setting of a sweep.
    """

    def __init__(
        self, path: str | Path, command: Sequence[str] = (), *, lenient: bool = False
    ) -> None:
        self.path = Path(path)
        self.command = list(command)
        self._lenient = lenient
        if not (self.path / EXPERIMENT).exists():
            raise RunError(f"{path} is no setting of a sweep: there is no {EXPERIMENT} in it")

    def lenient(self) -> SeedRuns:
        """The same runs, opened leniently."""
        return SeedRuns(self.path, self.command, lenient=True)

    @property
    def spec_file(self) -> Path:
        """Where the experiment stands, resolved."""
        return self.path / EXPERIMENT

    @cached_property
    def runs(self) -> dict[int, Run]:
        """The runs that have been started and can be read, by seed."""
        return {seed: run for seed, run in self._started.items() if isinstance(run, Run)}

    @cached_property
    def _started(self) -> dict[int, Run | RunError]:
        """By seed the run, or what is wrong with one that is left out."""
        folders = {seed: self.path / f"seed-{seed}" for seed in self.spec.get("seeds", [])}
        started = {seed: self._opened(at) for seed, at in folders.items() if holds_run(at)}
        faults = [of for of in started.values() if isinstance(of, RunError)]
        if faults and len(faults) == len(started):  # of none that is whole there is nothing to show
            raise faults[0]
        return started

    def _opened(self, folder: Path) -> Run | RunError:
        try:
            run = Run(folder, lenient=self._lenient)
            if self._lenient:
                _ = run.histories  # which are kept once they are read
        except RunError as error:
            if not self._lenient:
                raise
            return error
        return run

    @cached_property
    def env(self) -> dict[str, Any]:
        """Where the first seed was run, and all seeds."""
        first = next(iter(self.runs.values()), None)
        own = {"seeds": self.spec.get("seeds", []), "command": self.command}
        return {**(first.env if first else {}), **own}

    @cached_property
    def status(self) -> dict[str, Any]:
        """The state of all seeds: finished if all are, running if one is; trials of all."""
        each = {seed: run.status for seed, run in self.runs.items()}
        trials: dict[str, Any] = {}
        for status in each.values():
            trials.update(status.get("trials", {}))
        errors = [f"seed {seed}: {of['error']}" for seed, of in each.items() if of.get("error")]
        return {
            "state": self._state([run.state for run in self.runs.values()]),
            "trials": trials,
            "error": "; ".join(errors) or None,
            "started": min(
                (of["started"] for of in each.values() if "started" in of), default=None
            ),
            "ended": max((of["ended"] for of in each.values() if of.get("ended")), default=None),
        }

    @cached_property
    def results(self) -> dict[str, Any]:
        """The values that were computed after training with the first seed that has them."""
        found = self.results_of_seeds
        first = found[0] if found else {}
        # A sentence on one network is no finding about all.
        told = {one.get("finding") for one in found}
        return {key: of for key, of in first.items() if key != "finding" or len(told) == 1}

    @property
    def results_of_seeds(self) -> list[dict[str, Any]]:
        """The values that were computed after training, for each seed that has them."""
        return [run.results for run in self.runs.values() if run.results]

    @property
    def problems(self) -> list[str]:
        """What could not be read of the runs, a sentence each."""
        left_out = [
            f"seed {seed} is left out: {fault}"
            for seed, fault in self._started.items()
            if isinstance(fault, RunError)
        ]
        return [*left_out, *(problem for run in self.runs.values() for problem in run.problems)]

    def arrays(self, arm: str, seed: int, name: str) -> dict[str, Any] | None:
        """Tensors stored under a name, or None."""
        return self.runs[seed].arrays(arm, seed, name) if seed in self.runs else None

    def array_names(self, arm: str, seed: int) -> list[str]:
        """The names under which a trial stored tensors, sorted."""
        return self.runs[seed].array_names(arm, seed) if seed in self.runs else []

    def checkpoint(self, arm: str, seed: int, step: int | None = None) -> dict[str, Any]:
        """The kept checkpoint of a step, or the latest one."""
        return self.runs[seed].checkpoint(arm, seed, step)

    def checkpoint_steps(self, arm: str, seed: int) -> list[int]:
        """The steps whose checkpoints were kept."""
        return self.runs[seed].checkpoint_steps(arm, seed) if seed in self.runs else []

    @cached_property
    def histories(self) -> dict[tuple[str, int], History]:
        """The rows of each (arm, seed) that has any, seed by seed."""
        return {trial: of for run in self.runs.values() for trial, of in run.histories.items()}

    def _state(self, states: list[str]) -> str:
        if states and set(states) == {"finished"} and len(states) == len(self.spec["seeds"]):
            return "finished"
        return next((state for state in _STATES if state in states), "interrupted")


def write_experiment(folder: Path, spec: Mapping[str, Any]) -> None:
    """Replace the experiment that all seeds of a setting run."""
    write_atomically(folder / EXPERIMENT, dump_yaml(spec).encode())


def read_experiment(folder: Path) -> dict[str, Any] | None:
    """The experiment of a setting; None where there is none yet."""
    path = folder / EXPERIMENT
    return read_yaml_mapping(path) if path.exists() else None
