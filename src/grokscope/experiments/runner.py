"""From a spec to a run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from grokscope.data import Dataset, reduce_to_span
from grokscope.experiments.after_training import measure_after_training
from grokscope.experiments.analyses import ANALYSES
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.experiments.data_and_model import DataSpec
from grokscope.experiments.errors import SpecError
from grokscope.experiments.from_spec import (
    build_method,
    build_model,
    build_monitor,
    build_trial_model,
    check_trial,
    load_dataset,
    noise_on_test_points,
    training_settings,
)
from grokscope.experiments.own_data import check_same_data, own_data_digests
from grokscope.experiments.spec import (
    Experiment,
    TrialSpec,
    as_now,
)
from grokscope.runs import Run, RunDirectory, Trial
from grokscope.runs.side_files import DATA, holds_run
from grokscope.training.device import resolve_device
from grokscope.training.fit import fit_seeds
from grokscope.training.host_memory import keep_freed_memory
from grokscope.training.member import FitResult

_LOG = logging.getLogger(__name__)


@runtime_checkable
class Observer(Protocol):
    """What is told of a run while it goes on."""

    def trial_started(self, arm: str, seed: int, max_steps: int) -> None:
        """A training begins, or goes on."""

    def evaluated(self, arm: str, seed: int, row: Mapping[str, Any], seconds: float) -> None:
        """The network was evaluated."""

    def trial_finished(self, arm: str, seed: int, result: FitResult) -> None:
        """A training is over."""


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
    data_dir: str | Path | None = None,
    workers: int = 1,
    observer: Observer | None = None,
) -> Run:
    """Train every arm with every seed, and return the run directory for reading.

    On a CPU this process keeps the memory that it frees, from now on (`keep_freed_memory`).

    Args:
        experiment: what to run.
        out: the run directory.
        device: "auto", "cpu", "cuda" or "mps".
        resume: go on with the run in ``out``, if there is one; it must be of the same experiment.
        data_dir: a folder that holds the data sets already.
        workers: processes that measure kept checkpoints once training is over.
        observer: told of every evaluation.

    Raises:
        RunError: if the directory cannot be used.
        SpecError: if the run in the directory is of another experiment or of other data.
        DataError: if the data are missing or damaged.
    """
    place = resolve_device(device)
    if place.type == "cpu":
        keep_freed_memory()
    if not (resume and holds_run(Path(out))):
        RunDirectory.check_free(Path(out))  # before anything is downloaded
    # Data come next: a run that cannot have them leaves no directory behind.
    data = {
        arm: load_dataset(trial.data, trial.training.dtype, data_dir)
        for arm, trial in experiment.arms.items()
    }
    for arm, trial in experiment.arms.items():
        if experiment.analysis is not None:
            _check_for_analysis(experiment.analysis, data[arm])
        try:
            check_trial(trial, data[arm], experiment.seeds[0], place)
        except SpecError as error:
            raise SpecError(f"arms.{arm}: {error}") from error
    with (
        _threads(experiment.threads),
        _directory(experiment, data, Path(out), str(place), resume) as directory,
    ):
        for arms, seeds in _order(experiment):
            for arm in arms:
                spec, trials = experiment.arms[arm], [directory.trial(arm, seed) for seed in seeds]
                if observer:
                    for seed in seeds:
                        observer.trial_started(arm, seed, spec.training.max_steps)
                how = experiment.vectorize
                results = train(spec, data[arm], seeds, place, trials, how, observer)
                if observer:
                    for seed, result in zip(seeds, results, strict=True):
                        observer.trial_finished(arm, seed, result)
        measure_after_training(experiment, directory.path, workers=workers, data_dir=data_dir)
        if experiment.analysis is not None:
            trained = AnalysisInput(
                directory,
                data,
                build_trial_model(experiment, data),
                lambda section: load_dataset(DataSpec(**section), "float32", data_dir),
            )
            analyze = ANALYSES[experiment.analysis]
            directory.write_results(analyze(trained, **experiment.analysis_options))
    return Run(out)


def _check_for_analysis(analysis: str, data: Dataset) -> None:
    """Raise where an analysis would meet inputs of several tensors, after all the training."""
    try:
        data.input_shape(f"analysis {analysis}")
    except TypeError as error:
        raise SpecError(str(error)) from None


def _order(experiment: Experiment) -> list[tuple[list[str], list[int]]]:
    """Which arms are trained with which seeds at a time: together where they may, then alone."""
    seeds = list(experiment.seeds)
    if len(seeds) == 1 or experiment.vectorize is False:
        return [(list(experiment.arms), [seed]) for seed in seeds]
    alone = [arm for arm, spec in experiment.arms.items() if spec.data.reduce_to_span]
    together = [arm for arm in experiment.arms if arm not in alone]
    for arm in alone:
        _LOG.warning(
            "training the seeds of %s one after another: data.reduce_to_span gives each network "
            "data of its own",
            arm,
        )
    return [(together, seeds), *((alone, [seed]) for seed in seeds)]


def train(
    spec: TrialSpec,
    data: Dataset,
    seeds: Sequence[int],
    device: torch.device,
    trials: Sequence[Trial] | None = None,
    vectorize: bool | str = "auto",
    observer: Observer | None = None,
) -> list[FitResult]:
    """The trainings of an arm, as one where that is possible and pays.

    With ``data.reduce_to_span`` each network has data of its own, and there is one seed.
    """
    how = spec.training
    noise = noise_on_test_points(spec.monitor, data)
    small: nn.Module | None = None
    if spec.data.reduce_to_span:
        (seed,) = seeds
        whole = build_model(spec.model, data, seed).to(getattr(torch, how.dtype))
        reduced = reduce_to_span(whole, data)
        noise = None if noise is None else reduced.project(noise)
        small, data = reduced.model, reduced.data
        del whole, reduced  # its basis is larger than the network

    def build(seed: int) -> nn.Module:
        return build_model(spec.model, data, seed) if small is None else small

    def evaluated(seed: int, row: dict[str, Any], seconds: float) -> None:
        if observer and trials:
            observer.evaluated(trials[0].arm, seed, row, seconds)

    return fit_seeds(
        build,
        data,
        seeds,
        methods=lambda seed: [build_method(own.model_dump(), seed) for own in spec.methods],
        monitor=lambda model: build_monitor(spec.monitor, model, data, how.loss, noise),
        vectorize=vectorize,
        device=device,
        out=trials,
        on_evaluation=evaluated,
        **training_settings(how),
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _directory(
    experiment: Experiment, data: Mapping[str, Dataset], out: Path, device: str, resume: bool
) -> RunDirectory:
    spec = experiment.model_dump(mode="json")
    digests = own_data_digests(experiment, data)
    # Looked at again: another process may have begun the run while this one loaded data.
    if not (resume and holds_run(out)):
        return RunDirectory.create(out, spec, device, list(experiment.seeds), digests)
    run = Run(out, lenient=True)  # what cannot be read is told where it is opened to go on
    before = as_now(run.spec)
    if before != spec:
        changed = ", ".join(_differences(before, spec))
        raise SpecError(
            f"{out} is a run of other settings ({changed}); resume it with the same ones, "
            "or name another folder with --out"
        )
    check_same_data(experiment, run.env.get(DATA) or {}, digests)
    return RunDirectory.resume(out, device)


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    """The paths at which two nested values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [
            line
            for key in keys
            for line in _differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == after else [path]
