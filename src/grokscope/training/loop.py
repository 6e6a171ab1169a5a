"""The steps of a training, with evaluations of the networks between them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.measures.batches import map_leaves
from grokscope.measures.modes import into_training, resting
from grokscope.methods.networks import OneNetwork
from grokscope.runs import RunError, TrialGroup
from grokscope.training.batches import BatchOrder
from grokscope.training.denormals import flushed_denormals
from grokscope.training.device import synchronize
from grokscope.training.graphed import RecordedSteps, check_capturable
from grokscope.training.member import FitResult, Member
from grokscope.training.memory_order import channels_last
from grokscope.training.objective import NetworksObjective
from grokscope.training.progress_line import ProgressLine
from grokscope.training.state import TrainingState


class Loop:
    """Trains networks together, each until it has come to its own end.

    Between two evaluations nothing runs but the steps themselves. A checkpoint is written at the
    start, every ``checkpoint_seconds`` and at the end; whatever happens in between, a run that
    goes on from it gets the same numbers. The seconds of a network are its share of what all of
    them took: the time of a step over the number of networks in it.

    Args:
        members: the networks with their records, of the same data and settings.
        state: what moves them.
        order: the batches of each.
        group: where they write, if they do.

    Attributes:
        progress: told of steps and evaluations, where somebody watches.
        convolutions: whose weights lie with the channels last in the steps.
    """

    def __init__(
        self,
        members: Sequence[Member],
        state: TrainingState,
        order: BatchOrder,
        group: TrialGroup | None = None,
    ) -> None:
        self.members = list(members)
        self.state = state
        self.order = order
        self.group = group
        self.settings = members[0].settings
        evaluation = members[0].evaluation
        self._data = evaluation.data.train_x, evaluation.train_targets
        self._objective = NetworksObjective(evaluation.objective)
        self._alive = list(members)
        self._resting = resting([member.model for member in members])
        self._filters_only = not any(method.sees_forward_pass() for method in state.methods)
        self._recorded: RecordedSteps | None = None
        self.progress: ProgressLine | None = None
        self.convolutions: Sequence[nn.Module] = ()
        if self.settings.compile:
            check_capturable(state)
        self._marked = self._checkpointed = time.perf_counter()

    def run(self) -> list[FitResult]:
        """Train from the start, or from the group's checkpoint, to the end."""
        methods, networks = self.state.methods, self.state.networks
        results: dict[int, FitResult] = {}
        # what a method remembers is this training's alone; those of a stack are its own
        given = [] if networks.is_stacked else [method.state_dict() for method in methods]
        try:
            step = self._restore(results)
            for method in methods:
                method.start(networks)
            self._record_anew()
            while self._alive:
                until = min(member.next_evaluation for member in self._alive)
                step = self._advance(step, until)
                for member in self._alive:
                    if member.next_evaluation == step:
                        self._evaluate(member, step)
                self._let_go(results)
                if self._alive and self._checkpoint_due():
                    self._checkpoint(step)
        finally:
            for method in methods:
                method.finish()
            for method, state in zip(methods, given, strict=False):
                method.load_state_dict(state)
            # views of a stack would keep all of it in memory for as long as one network is kept
            networks.keep([])
        if self.group is not None:
            self.group.close()
        return [results[id(member)] for member in self.members]

    def _advance(self, step: int, until: int) -> int:
        """Take the steps up to ``until``; a checkpoint that falls due in between is written.

        None is written at ``until`` itself: that step's rows come first, or they would be lost.
        """
        writes = self.group is not None
        for member in self._alive:
            into_training(member.model, self._resting)
        begin, at = time.perf_counter(), step
        try:
            # for the steps alone: what is measured between them is exact and lies as usual
            optimizer = self.state.optimizer
            with channels_last(self.convolutions, optimizer), flushed_denormals(optimizer):
                while at < until:
                    at = self._take_some(at + 1, until)
                    if self.progress is not None:
                        self.progress.at(self._alive, at)
                    if writes and at < until and self._checkpoint_due():
                        self._clock(begin)
                        self._checkpoint(at)
                        begin = time.perf_counter()
        except KeyboardInterrupt:
            self._clock(begin)
            raise
        finally:
            for member in self._alive:
                member.reached = at
        self._clock(begin)
        return until

    def _take_some(self, first: int, last: int) -> int:
        """Take one step, or a recording of several, not beyond ``last``; say which was last."""
        if self._recorded is not None:
            return self._recorded.take(first, last)
        self.take(first)
        return first

    def take(self, step: int) -> None:
        """Take one step, counted from 1, with every network."""
        self._move(step, self.order.at(step))
        if self.state.scheduler is not None:
            self.state.scheduler.step()

    def _move(self, step: int, index: Tensor | None) -> None:
        """One step of every network, on the examples ``index`` (S, b), or on all of them."""
        networks, optimizer, methods = self.state.networks, self.state.optimizer, self.state.methods
        loss = self._loss(step, index)
        forget_gradients(optimizer)
        if not loss.requires_grad:
            raise ValueError(
                "model cannot be trained: its loss has no gradient to any parameter; it runs under "
                "torch.no_grad, detaches on the way or returns a constant"
            )
        # the sum over networks: no network's loss depends on another's parameters, so each gets its
        # own gradient from the one pass
        loss.backward()
        for method in methods:
            method.filter_gradients(step, networks)
        optimizer.step()

    def _loss(self, step: int, index: Tensor | None) -> Tensor:
        """The sum of the networks' losses at a step, with what methods add to it."""
        networks, methods = self.state.networks, self.state.methods
        (x, y), number = self._data, len(networks)
        if index is not None:
            flat = index.reshape(-1)
            # one gather for all networks, whose batches are different examples of the same data
            x = map_leaves(lambda leaf: leaf.index_select(0, flat), x)
            y = y.index_select(0, flat)
        # views are dear to a small step
        if self._filters_only and isinstance(networks, OneNetwork):
            return self._objective.objective(networks.run(x), y)
        if index is None:
            x, y = map_leaves(lambda x: x.expand(number, *x.shape), x), y.expand(number, *y.shape)
        else:
            x = map_leaves(lambda x: x.view(*index.shape, *x.shape[1:]), x)
            y = y.view(*index.shape, *y.shape[1:])
        for method in methods:
            x = method.perturb(step, networks, x, y, self._objective)
        outputs, loss = networks.outputs_and_loss(x, y, self._objective, self._objective.objective)
        for method in methods:
            penalty = method.penalty(step, networks, x, outputs)
            if penalty is not None:
                loss = loss + penalty.sum()
        return loss

    def _evaluate(self, member: Member, step: int) -> None:
        self._check_presence(step)
        row = member.evaluate(step)
        self._mark()
        if self.progress is not None:
            self.progress.evaluated(member, row)
        member.write(row, lambda: self._state_of(member))

    def _check_presence(self, step: int) -> None:
        """Stop where the run's folder has gone, with what there is in memory saved beside it."""
        if self.group is None:
            return
        try:
            self.group.run.check_presence()
        except RunError as error:
            for member in self._alive:
                if member.next_evaluation == step:
                    member.history.append({"step": step, **member.evaluation.scores()})
            place = self.group.rescue(
                step,
                {
                    one.seed: {**self._state_of(one), **one.saved()}
                    for one in self._alive
                    if one.stopped is None
                },
                {
                    one.seed: {"model": one.model.state_dict(), "step": one.step, **one.saved()}
                    for one in self.members
                    if one.stopped
                },
                {one.seed: one.history for one in self.members},
            )
            raise RunError(
                f"{error}; the rows and networks in memory are saved in {place}: resume there, or "
                "put the folder back and resume in it"
            ) from None

    def _state_of(self, member: Member) -> dict[str, Any]:
        return self.state.state_dict(self._alive.index(member))

    def _let_go(self, results: dict[int, FitResult]) -> None:
        """Take the networks out that have come to their end; the others go on."""
        staying = [row for row, member in enumerate(self._alive) if member.stopped is None]
        # before the stack shrinks, which takes the rows of those that have ended away
        results |= {id(member): member.result() for member in self._alive if member.stopped}
        if 0 < len(staying) < len(self._alive):
            self.state.keep(staying)
            self.order.keep(staying)
            self._record_anew()
        self._alive = [self._alive[row] for row in staying]

    def _record_anew(self) -> None:
        """Drop what was recorded, which is of other shapes, where steps are recorded at all."""
        if self.settings.compile:
            self._recorded = RecordedSteps(self._move, self.state, self.order)

    def _clock(self, begin: float) -> None:
        """Give each network its share of the time since ``begin``, which the steps took."""
        # a GPU runs behind the host: without waiting, the time would be that of asking for the
        # steps
        synchronize(self.state.device)
        taken = time.perf_counter() - begin
        for member in self._alive:
            member.train_seconds += taken / len(self._alive)

    def _mark(self) -> None:
        """Give each network its share of all time since the last mark."""
        now = time.perf_counter()
        for member in self._alive:
            member.total_seconds += (now - self._marked) / len(self._alive)
        self._marked = now

    def _restore(self, results: dict[int, FitResult]) -> int:
        """Go back to the group's checkpoint, or evaluate the networks before their first step."""
        saved = {} if self.group is None else self.group.restore()
        if not any(saved.values()):
            if self.group is not None:  # from here on it is known which are trained together
                self.group.save_checkpoint(0, {})
            for member in self.members:
                member.open_archive()
                self._evaluate(member, 0)
            self._let_go(results)
            self._checkpoint(0)
            return 0
        states = {seed: state for seed, state in saved.items() if state is not None}
        assert self.group is not None  # else nothing was saved
        histories = self.group.histories()
        for member in self.members:
            member.open_archive()
            member.restore(states[member.seed], histories[member.seed])
        self._let_go(results)
        if self._alive:
            self.state.load_state_dicts([states[member.seed] for member in self._alive])
        return max((member.step for member in self._alive), default=0)

    def _checkpoint_due(self) -> bool:
        return time.perf_counter() - self._checkpointed > self.settings.checkpoint_seconds

    def _checkpoint(self, step: int) -> None:
        if self.group is None:
            return
        self._check_presence(step)
        self._mark()
        states = {
            member.seed: {**self._state_of(member), **member.saved()}
            for member in self._alive
            if member.stopped is None
        }
        self.group.save_checkpoint(step, states)
        self._checkpointed = time.perf_counter()


def forget_gradients(optimizer: Optimizer) -> None:
    """``optimizer.zero_grad()``, without the entry in the profiler's record that PyTorch's makes.

    That entry takes a twentieth of the time of a step of a small network.
    """
    if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
