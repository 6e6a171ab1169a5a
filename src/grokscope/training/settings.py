"""The settings of a training, written once: ``fit``'s keywords and a spec's section are these."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from grokscope.arguments import check_fields
from grokscope.findings.settled import StopWhenSettled
from grokscope.findings.target import Target
from grokscope.shown import shown
from grokscope.spelling import unknown_name
from grokscope.training.objective import Objective
from grokscope.training.optimizers import DECAYS, OPTIMIZERS
from grokscope.training.schedule import Schedule

ACCURACIES = ("train_accuracy", "test_accuracy")
F = TypeVar("F", bound=Callable[..., Any])


@shown()
@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; each field is a keyword of ``fit`` and ``fit_seeds``.

    Args:
        optimizer: "adamw", "adam" or "sgd"; for ``fit`` also an optimizer of the model's
            parameters, which then brings its own settings.
        lr: learning rate.
        weight_decay: decoupled for "adamw", L2 for "adam" and "sgd".
        momentum: for "sgd".
        betas: for "adamw" and "adam".
        eps: for "adamw" and "adam": what keeps their steps small where gradients vanish.
        warmup: steps of linear warm-up.
        decay: how the learning rate falls afterwards: "none", "linear" or "cosine".
        loss: "cross_entropy", "mse" (on one-hot targets, mean over all elements),
            "binary_cross_entropy", "stablemax" (see ``stablemax_cross_entropy``), or a function
            of outputs and labels.
        label_smoothing: share of each target that is spread evenly over the classes, in the loss
            that is minimized and recorded; accuracies and the monitor go by the labels.
        loss_in_float64: whether the loss is taken of the outputs in float64: a softmax in float32
            cannot tell losses below 1e-7 apart, which training on all examples at once reaches.
        freeze: parameters that are not trained, or modules none of whose parameters are, by name.
        batch_size: mini-batches without replacement; None for the full batch.
        shuffle: a new order each epoch; False for the same batches in the order of the data.
        max_steps: where training stops at the latest.
        stop_at: where it may stop sooner: at a ``Target`` of an accuracy, or by
            ``StopWhenSettled``, which needs a monitor.
        evaluate: when loss and accuracy on all training and test data are recorded: "log",
            every N steps, a list of steps, or a ``Schedule``; the last step always is.
        dtype: torch.float32 or torch.float64; None keeps the model's.
        keep_checkpoints: keep the checkpoint of every evaluation, not only the latest; or those
            of these steps and of the last, which are evaluated too.
        checkpoint_seconds: how often the checkpoint to resume from is written.
        compile: on a CUDA device record the step once as a CUDA graph and replay it, which saves
            the time that Python takes to launch its kernels; see ``training.graphed``. Elsewhere
            the recording runs through Python, which saves nothing.

    Raises:
        ValueError: if a setting is wrong; the message names it.
    """

    optimizer: str | Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: int = 0
    decay: str = "none"
    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    label_smoothing: float = 0.0
    loss_in_float64: bool = False
    freeze: Sequence[str] = ()
    batch_size: int | None = None
    shuffle: bool = True
    max_steps: int = 10_000
    stop_at: Target | StopWhenSettled | None = None
    evaluate: str | int | Sequence[int] | Schedule = "log"
    dtype: torch.dtype | None = None
    keep_checkpoints: bool | Sequence[int] = False
    checkpoint_seconds: float = 20.0
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise ValueError(unknown_name("optimizer", self.optimizer, OPTIMIZERS))
        if self.decay not in DECAYS:
            raise ValueError(unknown_name("decay", self.decay, DECAYS))
        for name in ("lr", "weight_decay", "momentum", "eps", "warmup", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or positive: got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and less than 1: got {self.betas}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be a positive integer: got {self.max_steps}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(
                f"batch_size must be a positive integer or None: got {self.batch_size}"
            )
        self._check_stop()
        _ = self.objective
        Schedule.of(self.evaluate, "evaluate")

    @classmethod
    def of(cls, given: Mapping[str, Any], function: str) -> TrainingSettings:
        """The settings given by name; ``function`` is whose keywords they are."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(unknown_name(f"setting of {function}", name, known))
        return cls(**given)

    def _check_stop(self) -> None:
        rule = self.stop_at
        if rule is None or isinstance(rule, StopWhenSettled):
            return
        if not isinstance(rule, Target):
            raise TypeError(
                f"stop_at must be a Target, a StopWhenSettled or None: got {rule!r}; an accuracy "
                "to stop at is gs.Target('test_accuracy', 0.9)"
            )
        if rule.metric not in ACCURACIES:
            raise ValueError(unknown_name("metric", rule.metric, ACCURACIES))

    @property
    def objective(self) -> Objective:
        """What is minimized."""
        return Objective(self.loss, self.label_smoothing, self.loss_in_float64)


def takes_settings(function: F) -> F:
    """Show the settings, which a function takes as ``**settings``, among its keywords."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = inspect.signature(TrainingSettings).parameters.values()
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in added]
    function.__signature__ = signature.replace(parameters=own + keywords)  # type: ignore[attr-defined]
    return function
