"""Networks trained elsewhere, measured from their checkpoints into a run directory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import rows
from grokscope.measures.inputs import check_count, check_model
from grokscope.runs import Run, RunDirectory, Trial
from grokscope.runs.side_files import holds_run
from grokscope.training.checkpoint_files import checkpoint_files, load_network
from grokscope.training.device import resolve_device
from grokscope.training.evaluation import Evaluation
from grokscope.training.examples import TEST_EXAMPLES, Data, data_of
from grokscope.training.measure_with_memory import MeasureWithMemory
from grokscope.training.measurements import DEFAULT_MEASURES, Measure
from grokscope.training.monitor import Monitor
from grokscope.training.objective import Objective
from grokscope.training.watched_run import ARM, phase_results, watched_spec

OnMeasured = Callable[[dict[str, Any], int, int], None]
_PICTURES = 8


@checked_arguments
def measure(
    checkpoints: str | Path | Sequence[str | Path],
    model: nn.Module,
    data: Data,
    *,
    out: str | Path,
    pattern: str | None = None,
    measures: Sequence[str | Measure | MeasureWithMemory] = DEFAULT_MEASURES,
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    probe_size: int = 256,
    device: str | torch.device = "auto",
    on_measured: OnMeasured | None = None,
) -> Run:
    """Measure checkpoints of any training, into a run directory with history and phases.

    Called again with the same folder it goes on: a checkpoint that has been measured is not
    measured again, so that a training can be followed, and one that was interrupted loses nothing.

    Args:
        checkpoints: files, or folders of them: state dictionaries as safetensors or by
            ``torch.save``, which are read with ``weights_only=True``. Of a trainer's checkpoint the
            network's part is taken ("state_dict", "model_state_dict" or "model").
        model: a network of the architecture; it is copied, and left as it is.
        data: as for ``fit``.
        out: the run directory.
        pattern: of the names to take, as ``net-{step}.pt``; ``*`` stands for anything. By default
            the step is the number after "step", or else the last number of a name.
        measures: as for ``Monitor``.
        loss: as for ``fit``.
        probe_size: how many training points the geometry is measured at.
        device: "auto", "cpu", "cuda" or "mps".
        on_measured: called with each row, the number of checkpoints measured and that of all.

    Returns:
        The run directory, for reading.

    Raises:
        ValueError: if a file is missing or damaged, has no step, does not fit the model or would
            run code, or an argument is wrong; the message names it.
        RunError: if the run directory is in use, holds another run, or cannot be written.

    Example:
        >>> import tempfile, grokscope as gs
        >>> data = gs.load_data("digits", train_size=100, test_size=50)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (0, 10):
        ...         state = gs.MLP(64, [8], 10, seed=step).state_dict()
        ...         torch.save(state, f"{folder}/net-{step}.pt")
        ...     run = gs.measure(folder, gs.MLP(64, [8], 10), data, out=f"{folder}/run")
        ...     run.history("network", 0).steps
        array([ 0, 10])
    """
    check_model(model)
    check_count("probe_size", probe_size)
    files = checkpoint_files(checkpoints, pattern)
    place = resolve_device(device)
    network = copy.deepcopy(model).to(place)
    dtype = next((own.dtype for own in network.parameters()), torch.float32)
    dataset = data_of(data).to(place, dtype)
    evaluation = Evaluation(network, dataset, Objective(loss))
    monitor = Monitor(
        network,
        probe=(rows(dataset.train_x, slice(0, probe_size)), dataset.train_y[:probe_size]),
        measures=measures,
        test=(rows(dataset.test_x, slice(0, TEST_EXAMPLES)), dataset.test_y[:TEST_EXAMPLES]),
        loss=loss,
        pictures=_PICTURES if dataset.image_shape else 0,
    )
    settings = {
        "model": type(model).__name__,
        "parameters": sum(own.numel() for own in model.parameters()),
        "data": dataset.name,
        "examples": [len(dataset.train_y), len(dataset.test_y)],
        "measures": monitor.measure_names,
        "loss": loss if isinstance(loss, str) else getattr(loss, "__name__", "own"),
        "probe_size": len(monitor.probe[1]),
    }
    load_network(network, next(iter(files.values())))  # what does not fit leaves no folder behind
    path = Path(out)
    with _opened(path, settings, str(place)) as trial:
        monitor.keep_in(trial, dataset.image_shape)
        monitor.restore(trial.history())
        try:
            _measure_all(files, network, evaluation, monitor, trial, on_measured)
        finally:
            trial.run.write_results(phase_results(trial.history()))
        monitor.finish()
        trial.finish(stopped="measured", steps=max(files))
    return Run(path)


def _measure_all(
    files: dict[int, Path],
    network: nn.Module,
    evaluation: Evaluation,
    monitor: Monitor,
    trial: Trial,
    on_measured: OnMeasured | None,
) -> None:
    """Measure the checkpoints that have no row yet, in the order of their steps."""
    measured = {row["step"] for row in monitor.history}
    wanted = {step: path for step, path in files.items() if step not in measured}
    last = max(measured, default=-1)
    if wanted and min(wanted) < last:
        raise ValueError(
            f"{wanted[min(wanted)]} is of step {min(wanted)}, and step {last} has been measured: "
            "to measure all in their order, name another folder by out"
        )
    for done, (step, path) in enumerate(wanted.items(), len(files) - len(wanted) + 1):
        load_network(network, path)
        row = monitor.step(step, always=True, **evaluation.scores())
        assert row is not None
        trial.append(row, {})
        if on_measured is not None:
            on_measured(row, done, len(files))


@contextmanager
def _opened(path: Path, settings: dict[str, Any], device: str) -> Iterator[Trial]:
    """The training in a run directory: a new one, or one of the same settings that goes on."""
    if not holds_run(path):
        title = f"{settings['model']} on {settings['data']}"
        spec = watched_spec(path.resolve().name, title, measured=settings)
        run = RunDirectory.create(path, spec, device, [0])
    else:
        before = Run(path).spec.get("measured")
        if not isinstance(before, dict):
            raise ValueError(f"{path} holds a run that was not measured: name another folder")
        changed = [name for name, value in settings.items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"{path} was measured with other settings ({', '.join(changed)}): give the same "
                "ones, or name another folder"
            )
        run = RunDirectory.resume(path, device)
    with run:
        yield run.trial(ARM, 0)
