"""The steps of several trainings at once, each recorded as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from grokscope.runs import Trial, TrialGroup
from grokscope.training.device import synchronize
from grokscope.training.loop import FitResult, Loop
from grokscope.training.stack import Stack


class Member(Loop):
    """One of several networks in step: evaluated and recorded as ever, moved by the others' loop.

    Its seconds are its share of what all of them took: the time of a step over the number of
    networks in it.
    """

    stopped: str | None = None
    at = 0
    stack: Stack | None = None

    def begin(self, saved: dict[str, Any] | None) -> None:
        """Go on from a checkpoint, or look at the network before its first step."""
        self.at, self.stopped = self._begin(saved)

    def look(self, step: int) -> None:
        """Evaluate the network if its schedule says so, and end its training if that is due."""
        if self.next_evaluation != step:
            return
        self.at, self.stopped = step, self._evaluate(step)

    @property
    def next_evaluation(self) -> int:
        """The step of its next evaluation."""
        return self._next_evaluation(self.at)

    def result(self) -> FitResult:
        """What came of it, noted in the run's status too."""
        assert self.stopped is not None
        if self.trial is not None:
            self.trial.finish(stopped=self.stopped, steps=self.at, train_seconds=self.train_seconds)
        return FitResult(self.state.model, self.history, self.at, self.stopped, self.train_seconds)

    def checkpoint(self) -> dict[str, Any]:
        """What it needs to go on."""
        if self.stack is not None:
            self.stack.write_back(self.state)
        return {**self.state.state_dict(), "stopped": self.stopped, **self._seconds()}

    def _seconds(self) -> dict[str, float]:
        return {"train_seconds": self.train_seconds, "total_seconds": self.total_seconds}

    def _write(self, trial: Trial, row: dict[str, Any], stopped: str | None) -> None:
        step = row["step"]
        trial.append(row, self._seconds())
        keep = self._keeps(step, stopped)
        if keep or stopped:
            state = {**self.checkpoint(), "stopped": stopped}
            finished = stopped is not None
            trial.save_checkpoint(step, state, keep=keep, finished=finished, latest=finished)


class StackedLoop:
    """Trains several networks as one until each has come to its own end.

    Args:
        members: of one experiment, with the same schedule and settings.
        group: where they write, if they do.
    """

    def __init__(self, members: Sequence[Member], group: TrialGroup | None = None) -> None:
        self.members = list(members)
        self.group = group
        self._device = members[0].state.device
        self._marked = self._checkpointed = time.perf_counter()

    def run(self) -> list[FitResult]:
        """Train from the start, or from the group's checkpoint, to the end."""
        step = self._restore()
        alive = self._alive()
        results = {id(member): member.result() for member in self.members if member.stopped}
        stack = _stack_of(alive) if alive else None
        try:
            while stack is not None and alive:
                until = min(member.next_evaluation for member in alive)
                step = self._advance(stack, alive, step, until)
                for member in alive:
                    member.look(step)
                staying = [row for row, member in enumerate(alive) if member.stopped is None]
                results |= {id(member): member.result() for member in alive if member.stopped}
                if len(staying) < len(alive):
                    stack.keep(staying)
                    alive = self._alive()
                if alive and self._checkpoint_due(alive):
                    self._checkpoint(step)
        finally:
            if stack is not None:
                stack.keep([])
        if self.group is not None:
            self.group.close()
        return [results[id(member)] for member in self.members]

    def _advance(self, stack: Stack, alive: list[Member], step: int, until: int) -> int:
        """Take the steps up to ``until``; a checkpoint that falls due in between is written."""
        for member in alive:
            member.state.model.train()
        take, writes = stack.step, self.group is not None
        begin = time.perf_counter()
        for at in range(step + 1, until + 1):
            take(at)
            if writes and at < until and self._checkpoint_due(alive):
                self._clock(alive, begin)
                self._checkpoint(at)
                begin = time.perf_counter()
        self._clock(alive, begin)
        return until

    def _clock(self, alive: list[Member], begin: float) -> None:
        """Give each network its share of the time since ``begin``, and of all time so far."""
        synchronize(self._device)
        now = time.perf_counter()
        for member in alive:
            member.train_seconds += (now - begin) / len(alive)
            member.total_seconds += (now - self._marked) / len(alive)
        self._marked = now

    def _restore(self) -> int:
        """Go back to the common checkpoint, or look at the networks before their first step."""
        if self.group is None:
            for member in self.members:
                member.begin(None)
            return 0
        saved = self.group.restore()
        fresh = all(state is None for state in saved.values())
        if fresh:  # from here on it is known that they are trained together
            self.group.save_checkpoint(0, {})
        for member, state in zip(self.members, saved.values(), strict=True):
            member.begin(state)
        if fresh:
            self._checkpoint(0)
        return max(member.at for member in self._alive()) if self._alive() else 0

    def _alive(self) -> list[Member]:
        return [member for member in self.members if member.stopped is None]

    def _checkpoint_due(self, alive: list[Member]) -> bool:
        return time.perf_counter() - self._checkpointed > alive[0].checkpoint_seconds

    def _checkpoint(self, step: int) -> None:
        if self.group is None:
            return
        states = {
            member.order.seed: member.checkpoint() for member in self.members if not member.stopped
        }
        self.group.save_checkpoint(step, states)
        self._checkpointed = time.perf_counter()


def _stack_of(members: Sequence[Member]) -> Stack:
    stack = Stack(
        [member.state for member in members],
        [member.order.seed for member in members],
        members[0].evaluation,
        None if members[0].order.full else members[0].order.batch_size,
    )
    for member in members:
        member.stack = stack
    return stack
