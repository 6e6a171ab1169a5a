"""Several trainings as one: every step of theirs is one step of stacked tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from grokscope.methods.stacked import StackedNetwork, rows_of, stacked
from grokscope.training.batches import StackedBatchOrder
from grokscope.training.evaluation import Evaluation
from grokscope.training.stacked_objective import StackedObjective
from grokscope.training.state import TrainingState


class Stack:
    """S networks with their optimizers, methods and batches, trained in step.

    It takes over where the trainings it is made of are. ``write_back`` puts one's part back, so
    that its state can be written as if it had been trained alone.

    Args:
        states: the trainings, all at the same step.
        seeds: the seed of each, for the order of its batches.
        evaluation: data and loss, the same for all.
        batch_size: examples in a batch of one network; None for all of them.
    """

    def __init__(
        self,
        states: Sequence[TrainingState],
        seeds: Sequence[int],
        evaluation: Evaluation,
        batch_size: int | None,
    ) -> None:
        self.states = list(states)
        self.seeds = list(seeds)
        self._data = evaluation.data.train_x, evaluation.train_targets
        self._objective = StackedObjective(evaluation.objective)
        self._batch_size = batch_size
        self.network = StackedNetwork([state.model for state in states])
        self.network.bind()
        self._methods = stacked([state.methods for state in states])
        self._trained = {
            name: parameter
            for name, parameter in self.network.parameters.items()
            if parameter.requires_grad
        }
        self._optimizer = self._stacked_optimizer()
        self._scheduler = self._stacked_scheduler()
        self._order = self._stacked_order()

    def __len__(self) -> int:
        return len(self.states)

    def step(self, step: int) -> None:
        """Take one step, counted from 1, with every network."""
        network, optimizer = self.network, self._optimizer
        x, y = self._batch(step)
        for method in self._methods:
            x = method.perturb(step, network, x, y, self._objective)
        outputs = network(x)
        loss = self._objective(outputs, y)
        for method in self._methods:
            penalty = method.penalty(step, network, x, outputs)
            if penalty is not None:
                loss = loss + penalty.sum()
        optimizer.zero_grad()
        loss.backward()
        for method in self._methods:
            method.filter_gradients(step, network)
        optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()

    def write_back(self, state: TrainingState) -> None:
        """Bring the optimizer, schedule and methods of one of the trainings up to date."""
        row = self.states.index(state)
        for method in self._methods:
            method.write_back(row)
        own = dict(state.model.named_parameters())
        for name, parameter in self._trained.items():
            state.optimizer.state[own[name]] = {
                key: _row(value, parameter, row)
                for key, value in self._optimizer.state[parameter].items()
            }
        for group, whole in zip(
            state.optimizer.param_groups, self._optimizer.param_groups, strict=True
        ):
            group.update({key: value for key, value in whole.items() if key != "params"})
        if state.scheduler is not None and self._scheduler is not None:
            state.scheduler.load_state_dict(self._scheduler.state_dict())

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only; with none the stack is spent."""
        moments = {
            name: self._optimizer.state[parameter] for name, parameter in self._trained.items()
        }
        shapes = {name: parameter.shape for name, parameter in self._trained.items()}
        self.network.keep(rows)
        for name, parameter in self._trained.items():
            self._optimizer.state[parameter] = {
                key: rows_of(value, rows) if _is_of(value, shapes[name]) else value
                for key, value in moments[name].items()
            }
        for method in self._methods:
            method.keep(rows)
        self.states = [self.states[row] for row in rows]
        self.seeds = [self.seeds[row] for row in rows]
        if rows:
            self._order = self._stacked_order()

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (S, n, *d) and targets (S, n, ...) of a step."""
        index = self._order.at(step)
        if index is None:
            return tuple(part.expand(len(self), *part.shape) for part in self._data)  # type: ignore[return-value]
        flat = index.flatten()
        x, y = (part.index_select(0, flat).unflatten(0, index.shape) for part in self._data)
        return x, y

    def _stacked_order(self) -> StackedBatchOrder:
        x = self._data[0]
        return StackedBatchOrder(len(x), self._batch_size, self.seeds, x.device)

    def _stacked_optimizer(self) -> Optimizer:
        first = self.states[0].optimizer
        make: Callable[..., Optimizer] = type(first)
        optimizer = make(self._trained.values(), lr=1e-3, fused=True)
        for group, own in zip(optimizer.param_groups, first.param_groups, strict=True):
            group.update({key: value for key, value in own.items() if key != "params"})
        owned = [dict(state.model.named_parameters()) for state in self.states]
        for name, parameter in self._trained.items():
            entries = [
                state.optimizer.state.get(own[name], {})
                for state, own in zip(self.states, owned, strict=True)
            ]
            for key, value in entries[0].items():
                optimizer.state[parameter][key] = (
                    torch.stack([entry[key] for entry in entries])
                    if key != "step" and _is_of(value, parameter.shape[1:])
                    else value
                )
        return optimizer

    def _stacked_scheduler(self) -> LambdaLR | None:
        first = self.states[0].scheduler
        if not isinstance(first, LambdaLR):
            return None
        rates = [group["lr"] for group in self._optimizer.param_groups]
        scheduler = LambdaLR(self._optimizer, first.lr_lambdas)
        scheduler.load_state_dict(first.state_dict())
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return scheduler


def _is_of(value: object, shape: torch.Size) -> bool:
    """Whether an entry of an optimizer's state has a number for each of a parameter's."""
    return isinstance(value, Tensor) and value.shape == shape


def _row(value: object, parameter: Tensor, row: int) -> object:
    """A network's part of an entry of the state."""
    if isinstance(value, Tensor):
        return value[row] if _is_of(value, parameter.shape) else value.clone()
    return value
