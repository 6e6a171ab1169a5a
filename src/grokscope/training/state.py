"""All that a training needs to go on where it stopped, network by network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from grokscope.methods.base import Method
from grokscope.methods.networks import Networks, rows_of
from grokscope.runs.tensors import random_state, restore_random_state


class TrainingState:
    """The parts of a training that change from step to step.

    Networks that are trained together share one optimizer. What is saved of each of them is what
    it would have had alone, so that it does not matter afterwards how it was trained.

    Args:
        networks: the networks.
        optimizer: of their parameters.
        scheduler: its learning-rate schedule, if any.
        methods: the methods at work.
        device: where training runs.
    """

    def __init__(
        self,
        networks: Networks,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        methods: Sequence[Method],
        device: torch.device,
    ) -> None:
        self.networks = networks
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.methods = methods
        self.device = device

    def state_dict(self, row: int) -> dict[str, Any]:
        """What one network needs: tensors, numbers and strings only."""
        return {
            "model": self.networks.models[row].state_dict(),
            "optimizer": self._optimizer_state(row),
            "scheduler": _without_functions(self.scheduler),
            "methods": [method.state_dict(row) for method in self.methods],
            "random": random_state(self.device),
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Put everything back as ``state_dict`` found it for each of the networks."""
        for model, own in zip(self.networks.models, states, strict=True):
            model.load_state_dict(own["model"])
        self._load_optimizer([own["optimizer"] for own in states])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(states[0]["scheduler"])
        for index, method in enumerate(self.methods):
            method.load_state_dict(*(own["methods"][index] for own in states))
        restore_random_state(states[0]["random"], self.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        if not self.networks.is_stacked:
            return
        # told by the shapes before they change
        moments = {
            parameter: {
                key: rows_of(value, rows) if _is_of(value, parameter.shape) else value
                for key, value in self.optimizer.state[parameter].items()
            }
            for parameter in self.networks.trained
        }
        self.networks.keep(rows)
        for parameter, state in moments.items():
            self.optimizer.state[parameter] = state
        for method in self.methods:
            method.keep(rows)

    def _optimizer_state(self, row: int) -> dict[str, Any]:
        whole = self.optimizer.state_dict()
        whole["param_groups"] = [
            # a recorded training keeps it in a tensor, for the graph to read
            group | {"lr": float(group["lr"])}
            for group in whole["param_groups"]
        ]
        if not self.networks.is_stacked:
            return whole
        shapes = [parameter.shape for parameter in self.networks.trained]
        return whole | {
            "state": {
                index: {
                    key: value[row] if _is_of(value, shapes[index]) else value
                    for key, value in state.items()
                }
                for index, state in whole["state"].items()
            }
        }

    def _load_optimizer(self, states: Sequence[dict[str, Any]]) -> None:
        first = states[0]
        if self.networks.is_stacked:
            shapes = [parameter.shape[1:] for parameter in self.networks.trained]
            stacked = {
                index: {
                    # a scalar parameter has moments of the shape of the step, which all share
                    key: torch.stack([own["state"][index][key] for own in states])
                    if key != "step" and _is_of(value, shapes[index])
                    else value
                    for key, value in state.items()
                }
                for index, state in first["state"].items()
            }
            first = first | {"state": stacked}
        # how the kernels run belongs to this training and not to the one that was saved
        groups = zip(first["param_groups"], self.optimizer.param_groups, strict=True)
        merged = [
            saved | {key: own[key] for key in ("capturable", "fused", "foreach") if key in own}
            for saved, own in groups
        ]
        # fused kernels go through memory as it lies, whatever the order of its axes: moments must
        # lie as their parameter does, which need not be how those of the file do
        laid_out = {
            index: {
                key: _in_order_of(parameter, value)
                if key != "step" and _is_of(value, parameter.shape)
                else value
                for key, value in first["state"][index].items()
            }
            for index, parameter in enumerate(self.networks.trained)
            if index in first["state"]
        }
        self.optimizer.load_state_dict({"state": laid_out, "param_groups": merged})


def _is_of(value: object, shape: torch.Size) -> bool:
    """Whether an entry of an optimizer's state has a number for each of a parameter's."""
    return isinstance(value, Tensor) and value.shape == shape


def _in_order_of(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _without_functions(scheduler: LRScheduler | None) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    state = scheduler.state_dict()
    return {key: value for key, value in state.items() if key != "lr_lambdas"} | {
        "lr_lambdas": [None] * len(state.get("lr_lambdas", []))
    }
