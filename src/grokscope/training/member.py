"""One network of a training: evaluated, measured and recorded by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from grokscope.findings.curves import ALIGNMENTS
from grokscope.findings.settled import StopWhenSettled
from grokscope.findings.target import Target
from grokscope.runs import History, Trial
from grokscope.shown import shown
from grokscope.training.evaluation import Evaluation
from grokscope.training.schedule import Schedule
from grokscope.training.settings import TrainingSettings

if TYPE_CHECKING:
    from grokscope.training.monitor import Monitor

OnEvaluation = Callable[[dict[str, Any], float], None]


@shown("model", "steps", "stopped", "train_seconds", "history")
@dataclass(frozen=True, repr=False)
class FitResult:
    """A trained network and its record.

    ``stopped`` is "target", "settled" (by ``StopWhenSettled``), "max_steps", "diverged" (the
    training loss was no longer finite) or "interrupted" (by Ctrl-C);
    ``train_seconds`` is the time of the training steps alone, without evaluation and monitoring;
    of networks trained together each has its share, the time of a step over their number.
    """

    model: nn.Module
    history: History
    steps: int
    stopped: str
    train_seconds: float


class Member:
    """A network with its data, its monitor and where it writes; the loop moves it.

    Args:
        seed: its seed.
        evaluation: the network and its data.
        settings: of the training.
        monitor: measures it, if any.
        on_evaluation: called with each row and the training seconds so far.

    Attributes:
        trial: where it writes, if anywhere.
        step: the step of its last evaluation.
        reached: the last step that it has taken.
        stopped: why its training is over, or None.
    """

    def __init__(
        self,
        seed: int,
        evaluation: Evaluation,
        settings: TrainingSettings,
        monitor: Monitor | None,
        on_evaluation: OnEvaluation | None,
    ) -> None:
        rule, keep = settings.stop_at, settings.keep_checkpoints
        if isinstance(rule, StopWhenSettled) and rule.use_alignment and monitor is None:
            raise ValueError(
                "stop_at=StopWhenSettled() looks at alignment: pass monitor=gs.Monitor(model, "
                "(x, y)), or set use_alignment=False"
            )
        if monitor is not None and monitor.asynchronous:
            raise ValueError(
                "monitor measures in a second process, whose rows come too late for those that fit "
                "writes: pass asynchronous=False, or keep checkpoints and measure them afterwards "
                "(gs.measure; monitor.after_training in a spec)"
            )
        if rule is not None and not evaluation.has_accuracy:
            raise ValueError(
                f"stop_at={type(rule).__name__} looks at accuracies, which the outputs of this "
                "model have not for its targets: leave stop_at out"
            )
        self.seed = seed
        self.evaluation = evaluation
        self.settings = settings
        self.monitor = monitor
        self.on_evaluation = on_evaluation
        self.trial: Trial | None = None
        self.history = History()
        self.step = self.reached = 0
        self.stopped: str | None = None
        self.train_seconds = 0.0
        self.total_seconds = 0.0
        self._schedule = Schedule.of(settings.evaluate)
        self._keeps_all = keep is True
        self._keep_at = frozenset(() if isinstance(keep, bool) else keep)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.evaluation.model

    @property
    def next_evaluation(self) -> int:
        """The step of its next evaluation."""
        monitored = self.monitor.due if self.monitor else None
        due = [self._schedule.after(self.step), monitored, *self._keep_at]
        return min(
            [self.settings.max_steps, *(at for at in due if at is not None and at > self.step)]
        )

    def open_archive(self) -> None:
        """Let the monitor keep its tensors where the network writes."""
        if self.trial is not None and self.monitor is not None:
            self.monitor.keep_in(self.trial, self.evaluation.data.image_shape)

    def restore(self, saved: dict[str, Any], history: History) -> None:
        """Go on from a checkpoint and the rows before it: all but what the loop moves."""
        self.model.load_state_dict(saved["model"])
        self.history = history
        self.train_seconds, self.total_seconds = saved["train_seconds"], saved["total_seconds"]
        self.step, self.stopped = saved["step"], saved["stopped"]
        if self.stopped == "max_steps" and self.settings.max_steps > self.step:
            self.stopped = None  # it is asked for more
        if self.monitor is not None:
            self.monitor.restore(History(self.history))

    def evaluate(self, step: int) -> dict[str, Any]:
        """Record the network as it is now, and why training ends here, if it does."""
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
        self.step, self.stopped = step, stopped
        return row

    def write(self, row: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        """Write a row, and the checkpoint of its step where that is kept or the last.

        Args:
            row: what ``evaluate`` returned.
            state: what the loop moves of it, for a checkpoint.
        """
        if self.trial is not None:
            self.trial.append(row, self.seconds())
            if self._keeps(row["step"]) or self.stopped:
                self.trial.save_checkpoint(
                    row["step"],
                    {**state(), **self.saved()},
                    keep=self._keeps(row["step"]),
                    finished=self.stopped is not None,
                )
        if self.on_evaluation is not None:
            self.on_evaluation(row, self.train_seconds)

    def seconds(self) -> dict[str, float]:
        """The seconds of its steps, and those and of its evaluations."""
        return {"train_seconds": self.train_seconds, "total_seconds": self.total_seconds}

    def saved(self) -> dict[str, Any]:
        """What ``restore`` needs, besides what the loop moves."""
        return {"stopped": self.stopped, **self.seconds()}

    def result(self) -> FitResult:
        """The finished training, noted in the run's status too."""
        assert self.stopped is not None
        if self.trial is not None:
            self.trial.finish(
                stopped=self.stopped, steps=self.step, train_seconds=self.train_seconds
            )
        return FitResult(self.model, self.history, self.step, self.stopped, self.train_seconds)

    def as_it_is(self) -> FitResult:
        """What there is of a training that Ctrl-C ended; one that was over before is finished."""
        steps = self.step if self.stopped else max(self.step, self.reached)
        stopped = self.stopped or "interrupted"
        return FitResult(self.model, self.history, steps, stopped, self.train_seconds)

    def _keeps(self, step: int) -> bool:
        listed = step in self._keep_at or bool(self._keep_at and self.stopped)
        return self._keeps_all or listed

    def _verdict(self, step: int, row: dict[str, Any]) -> str | None:
        if not math.isfinite(row["train_loss"]):
            return "diverged"
        target = self.settings.stop_at
        if isinstance(target, Target) and target.is_reached(row):
            return "target"
        return "max_steps" if step >= self.settings.max_steps else None

    def _has_settled(self, row: dict[str, Any]) -> bool:
        """Whether the rule for stopping says so; it is asked where the monitor has measured."""
        rule = self.settings.stop_at
        if not isinstance(rule, StopWhenSettled):
            return False
        return (not rule.use_alignment or any(name in row for name in ALIGNMENTS)) and rule(
            self.history
        )
