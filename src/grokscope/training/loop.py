"""The steps of a training, with looks at the network between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from grokscope.runs import History, Trial
from grokscope.spelling import unknown_name
from grokscope.training.batches import BatchOrder
from grokscope.training.device import synchronize
from grokscope.training.evaluation import Evaluation
from grokscope.training.monitor import Monitor
from grokscope.training.schedule import Schedule
from grokscope.training.settled import ALIGNMENTS, StopWhenSettled
from grokscope.training.state import TrainingState

ACCURACIES = ("train_accuracy", "test_accuracy")
CHECKPOINT_SECONDS = 20.0

OnEvaluation = Callable[[dict[str, Any], float], None]


@dataclass(frozen=True)
class Target:
    """Where training may stop: when an accuracy is at or above a value."""

    metric: str = "test_accuracy"
    value: float = 0.9

    def __post_init__(self) -> None:
        if self.metric not in ACCURACIES:
            raise ValueError(unknown_name("metric", self.metric, ACCURACIES))


@dataclass(frozen=True)
class FitResult:
    """What came of a training.

    ``stopped`` is "target", "settled" (by ``StopWhenSettled``), "max_steps" or "diverged" (the
    training loss was no longer finite);
    ``train_seconds`` is the time of the training steps alone, without evaluation and monitoring.
    """

    model: nn.Module
    history: History
    steps: int
    stopped: str
    train_seconds: float


class Loop:
    """Trains, evaluates on schedule, and writes what it finds.

    Between two evaluations nothing runs but the steps themselves. A checkpoint is written at the
    start, every ``checkpoint_seconds`` and at the end; whatever happens in between, a run that
    goes on from it gets the same numbers.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        state: TrainingState,
        order: BatchOrder,
        *,
        schedule: Schedule,
        max_steps: int,
        stop_at: Target | StopWhenSettled | None = None,
        monitor: Monitor | None = None,
        trial: Trial | None = None,
        keep_checkpoints: bool | Sequence[int] = False,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        self.evaluation = evaluation
        self.state = state
        self.order = order
        self.schedule = schedule
        self.max_steps = max_steps
        self.stop_at = stop_at
        self.monitor = monitor
        self.trial = trial
        self.keep_every = keep_checkpoints is True
        self.keep_at = frozenset(() if isinstance(keep_checkpoints, bool) else keep_checkpoints)
        self.checkpoint_seconds = checkpoint_seconds
        self.on_evaluation = on_evaluation
        self.history = History()
        self.train_seconds = 0.0
        self.total_seconds = 0.0
        self._resumed = time.perf_counter()
        self._checkpointed = self._resumed

    def run(self) -> FitResult:
        """Train from the start, or from the trial's checkpoint, to the end."""
        step, stopped = self._restore()
        methods = self.state.methods
        try:
            for method in methods:
                method.start(self.state.model)
            while stopped is None:
                step = self._advance(step, self._next_evaluation(step))
                stopped = self._evaluate(step)
        finally:
            for method in methods:
                method.finish()
        if self.trial is not None:
            self.trial.finish(stopped=stopped, steps=step, train_seconds=self.train_seconds)
        return FitResult(self.state.model, self.history, step, stopped, self.train_seconds)

    def _next_evaluation(self, step: int) -> int:
        due = [self.schedule.after(step), self.monitor.due if self.monitor else None, *self.keep_at]
        return min([self.max_steps, *(at for at in due if at is not None and at > step)])

    def _advance(self, step: int, until: int) -> int:
        """Take the steps up to ``until``; a checkpoint that falls due in between is written.

        None is written at ``until`` itself: that step's row comes first, or it would be lost.
        """
        take, writes = self._step, self.trial is not None
        self.state.model.train()
        begin = time.perf_counter()
        for at in range(step + 1, until + 1):
            take(at)
            if writes and at < until and self._checkpoint_due():
                self._clock(begin)
                self._checkpoint(at)
                begin = time.perf_counter()
        self._clock(begin)
        return until

    def _clock(self, begin: float) -> None:
        synchronize(self.state.device)
        self.train_seconds += time.perf_counter() - begin

    def _step(self, step: int) -> None:
        model, optimizer, methods = self.state.model, self.state.optimizer, self.state.methods
        evaluation = self.evaluation
        x, y = evaluation.data.train_x, evaluation.train_targets
        index = self.order.at(step)
        if index is not None:
            x, y = x.index_select(0, index), y.index_select(0, index)
        for method in methods:
            x = method.perturb(step, model, x, y, evaluation.objective)
        outputs = model(x)
        loss = evaluation.objective(outputs, y)
        for method in methods:
            penalty = method.penalty(step, model, x, outputs)
            if penalty is not None:
                loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()
        for method in methods:
            method.filter_gradients(step, model)
        optimizer.step()
        if self.state.scheduler is not None:
            self.state.scheduler.step()

    def _evaluate(self, step: int) -> str | None:
        """Record the network as it is now; say why training ends here, or None."""
        row: dict[str, Any] = {"step": step, **self.evaluation.scores()}
        stopped = self._verdict(step, row)
        monitor = self.monitor
        if monitor is not None:
            row = monitor.step(**row, always=stopped is not None) or row
            if stopped is not None:
                monitor.finish()
        self.history.append(row)
        if stopped is None and self._has_settled(row):
            stopped = "settled"
            if monitor is not None:
                monitor.finish()
        if self.trial is not None:
            self._write(self.trial, row, stopped)
        if self.on_evaluation is not None:
            self.on_evaluation(row, self.train_seconds)
        return stopped

    def _verdict(self, step: int, row: dict[str, Any]) -> str | None:
        if not math.isfinite(row["train_loss"]):
            return "diverged"
        target = self.stop_at
        if isinstance(target, Target) and row[target.metric] >= target.value:
            return "target"
        return "max_steps" if step >= self.max_steps else None

    def _has_settled(self, row: dict[str, Any]) -> bool:
        """Whether the rule for stopping says so; it is asked where the monitor has measured."""
        rule = self.stop_at
        if not isinstance(rule, StopWhenSettled):
            return False
        return (not rule.use_alignment or any(name in row for name in ALIGNMENTS)) and rule(
            self.history
        )

    def _write(self, trial: Trial, row: dict[str, Any], stopped: str | None) -> None:
        step = row["step"]
        trial.append(row, self._seconds())
        keep = self._keeps(step, stopped)
        if step == 0 or stopped or keep or self._checkpoint_due():
            self._checkpoint(step, keep=keep, stopped=stopped)

    def _keeps(self, step: int, stopped: str | None) -> bool:
        return self.keep_every or step in self.keep_at or bool(self.keep_at and stopped)

    def _checkpoint_due(self) -> bool:
        return time.perf_counter() - self._checkpointed > self.checkpoint_seconds

    def _seconds(self) -> dict[str, float]:
        now = time.perf_counter()
        self.total_seconds += now - self._resumed
        self._resumed = now
        return {"train_seconds": self.train_seconds, "total_seconds": self.total_seconds}

    def _checkpoint(self, step: int, keep: bool = False, stopped: str | None = None) -> None:
        if self.trial is None:
            return
        state = {**self.state.state_dict(), "stopped": stopped, **self._seconds()}
        self.trial.save_checkpoint(step, state, keep=keep, finished=stopped is not None)
        self._checkpointed = time.perf_counter()

    def _restore(self) -> tuple[int, str | None]:
        """Go back to the trial's checkpoint, or look at the network before its first step."""
        return self._begin(self.trial.restore() if self.trial is not None else None)

    def _begin(self, saved: dict[str, Any] | None) -> tuple[int, str | None]:
        if self.trial is not None and self.monitor is not None:
            self.monitor.keep_in(self.trial, self.evaluation.data.image_shape)
        if self.trial is None or saved is None:
            return 0, self._evaluate(0)
        self.state.load_state_dict(saved)
        self.history = self.trial.history()
        self.train_seconds, self.total_seconds = saved["train_seconds"], saved["total_seconds"]
        if self.monitor is not None:
            self.monitor.restore(History(self.history))
        return saved["step"], saved["stopped"]
