"""Train a network with its geometry in view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.data import Dataset
from grokscope.methods.base import Method
from grokscope.runs import RunDirectory, Trial
from grokscope.training.batches import BatchOrder
from grokscope.training.device import resolve_device
from grokscope.training.evaluation import Evaluation
from grokscope.training.loop import CHECKPOINT_SECONDS, FitResult, Loop, OnEvaluation, Target
from grokscope.training.monitor import Monitor
from grokscope.training.objective import Objective
from grokscope.training.optimizers import learning_rate_schedule, named_optimizer
from grokscope.training.schedule import Schedule
from grokscope.training.settled import StopWhenSettled
from grokscope.training.state import TrainingState

Data = Dataset | Sequence[Tensor]
L = TypeVar("L", bound=Loop)


def fit(
    model: nn.Module,
    data: Data,
    *,
    methods: Sequence[Method] = (),
    monitor: Monitor | None = None,
    optimizer: str | Optimizer = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    warmup: int = 0,
    decay: str = "none",
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
    label_smoothing: float = 0.0,
    batch_size: int | None = None,
    max_steps: int = 10_000,
    stop_at: Target | StopWhenSettled | None = None,
    evaluate: str | int | Sequence[int] | Schedule = "log",
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    out: str | Path | Trial | None = None,
    resume: bool = False,
    keep_checkpoints: bool | Sequence[int] = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_evaluation: OnEvaluation | None = None,
) -> FitResult:
    """Train a network and record how it does.

    Args:
        model: the network; it is moved to the device and trained in place.
        data: a ``Dataset``, or training inputs, training labels, test inputs and test labels.
        methods: what brings generalisation forward, such as ``GrokAlign()``.
        monitor: measures the network's geometry; its figures join the history.
        optimizer: "adamw", "adam" or "sgd", or an optimizer of the model's parameters, which
            then brings its own settings.
        lr: learning rate.
        weight_decay: decoupled for "adamw", L2 for "adam" and "sgd".
        momentum: for "sgd".
        betas: for "adamw" and "adam".
        eps: for "adamw" and "adam": what keeps their steps small where gradients vanish.
        warmup: steps of linear warm-up.
        decay: course of the learning rate afterwards: "none", "linear" or "cosine".
        loss: "cross_entropy", "mse" (on one-hot targets, mean over all elements),
            "binary_cross_entropy", "stablemax" (see ``stablemax_cross_entropy``), or a function
            of outputs and labels.
        label_smoothing: share of each target that is spread evenly over the classes, in the loss
            that is minimized and recorded; accuracies and the monitor go by the labels.
        batch_size: mini-batches without replacement; None for the full batch.
        max_steps: where training stops at the latest.
        stop_at: where it may stop sooner: at a ``Target``, or by ``StopWhenSettled``, which needs a
            monitor.
        evaluate: when loss and accuracy on all training and test data are recorded: "log",
            every so many steps, a list of steps, or a ``Schedule``; the last step always is.
        seed: decides the order of the batches; the initialization is the model's own.
        device: "auto" (the best there is), "cpu", "cuda" or "mps".
        dtype: torch.float32 or torch.float64; None keeps the model's.
        out: a folder to write a run directory to, which ``grokscope report`` can read.
        resume: go on with the run in ``out``, if there is one.
        keep_checkpoints: keep the checkpoint of every evaluation, not only the latest; or those
            of these steps and of the last, which are evaluated too.
        checkpoint_seconds: how often the checkpoint to resume from is written.
        on_evaluation: called with each row and the training seconds so far.

    Returns:
        The trained model, the history of its evaluations, and how training ended.

    Raises:
        ValueError: an argument is wrong; the message names it.
        RunError: the run directory is in use, holds another run, or cannot be written.

    Example:
        >>> import grokscope as gs
        >>> model = gs.MLP(64, [32], 10, seed=0)
        >>> data = gs.load_data("digits", train_size=300)
        >>> result = gs.fit(model, data, lr=1e-2, batch_size=100, max_steps=60)
        >>> result.steps, bool(result.history["test_accuracy"][-1] > 0.7)
        (60, True)
    """
    loop = assembled(
        Loop,
        model,
        data,
        methods=methods,
        monitor=monitor,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        betas=betas,
        eps=eps,
        warmup=warmup,
        decay=decay,
        loss=loss,
        label_smoothing=label_smoothing,
        batch_size=batch_size,
        max_steps=max_steps,
        stop_at=stop_at,
        evaluate=evaluate,
        seed=seed,
        device=device,
        dtype=dtype,
        keep_checkpoints=keep_checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        on_evaluation=on_evaluation,
    )
    with opened_trials(out, resume, loop.state.device, [seed]) as trials:
        loop.trial = trials[0] if trials else None
        return loop.run()


def assembled(
    kind: type[L],
    model: nn.Module,
    data: Data,
    *,
    methods: Sequence[Method],
    monitor: Monitor | None,
    optimizer: str | Optimizer,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
    eps: float,
    warmup: int,
    decay: str,
    loss: str | Callable[[Tensor, Tensor], Tensor],
    label_smoothing: float,
    batch_size: int | None,
    max_steps: int,
    stop_at: Target | StopWhenSettled | None,
    evaluate: str | int | Sequence[int] | Schedule,
    seed: int,
    device: str | torch.device,
    dtype: torch.dtype | None,
    keep_checkpoints: bool | Sequence[int],
    checkpoint_seconds: float,
    on_evaluation: OnEvaluation | None,
) -> L:
    """The loop that ``fit`` runs, with the arguments of ``fit``; it writes nowhere as yet."""
    if max_steps < 1:
        raise ValueError(f"max_steps must be a positive integer: got {max_steps}")
    if isinstance(stop_at, StopWhenSettled) and stop_at.use_alignment and monitor is None:
        raise ValueError(
            "stop_at=StopWhenSettled() looks at alignment: pass monitor=gs.Monitor(model, (x, y)), "
            "or set use_alignment=False"
        )
    place = resolve_device(device)
    model.to(device=place, dtype=dtype)
    dataset = data_of(data).to(place, next((p.dtype for p in model.parameters()), torch.float32))
    if isinstance(optimizer, str):
        optimizer = named_optimizer(
            optimizer,
            model.parameters(),
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            betas=betas,
            eps=eps,
        )
    return kind(
        Evaluation(model, dataset, Objective(loss, label_smoothing)),
        TrainingState(
            model,
            optimizer,
            learning_rate_schedule(optimizer, max_steps, warmup, decay),
            methods,
            place,
        ),
        BatchOrder(len(dataset.train_x), batch_size, seed, place),
        schedule=Schedule.of(evaluate),
        max_steps=max_steps,
        stop_at=stop_at,
        monitor=monitor,
        keep_checkpoints=keep_checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        on_evaluation=on_evaluation,
    )


def data_of(data: Data) -> Dataset:
    """Bare tensors as a data set; integer targets are classes, counted by the largest."""
    if isinstance(data, Dataset):
        return data
    if len(data) != 4:
        raise ValueError(
            f"data must be a Dataset or (train_x, train_y, test_x, test_y): got {len(data)} tensors"
        )
    train_x, train_y, test_x, test_y = data
    labels = all(len(y) and not y.is_floating_point() for y in (train_y, test_y))
    num_classes = 1 + max(int(train_y.max()), int(test_y.max())) if labels else None
    return Dataset("data", train_x, train_y, test_x, test_y, num_classes)


@contextmanager
def opened_trials(
    out: str | Path | Sequence[Trial] | Trial | None,
    resume: bool,
    device: torch.device,
    seeds: Sequence[int],
) -> Iterator[list[Trial]]:
    """Where to write: the trials given, those of a run directory of its own, or nowhere."""
    if out is None or isinstance(out, Trial):
        yield [] if out is None else [out]
        return
    if not isinstance(out, (str, Path)):
        yield list(out)
        return
    path = Path(out)
    if resume and (path / "spec.yaml").exists():
        run = RunDirectory.resume(path, str(device))
    else:
        spec: dict[str, Any] = {
            "name": path.name,
            "title": path.name,
            "seeds": list(seeds),
            "arms": {"run": {"title": path.name}},
        }
        run = RunDirectory.create(path, spec, str(device), list(seeds))
    with run:
        yield [run.trial("run", seed) for seed in seeds]
