"""All that a training needs to go on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from grokscope.methods.base import Method
from grokscope.runs.tensors import random_state, restore_random_state


class TrainingState:
    """The parts of a training that change from step to step, saved and restored as one.

    Args:
        model: the network.
        optimizer: its optimizer.
        scheduler: its learning-rate schedule, if any.
        methods: the methods at work.
        device: where training runs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        methods: Sequence[Method],
        device: torch.device,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.methods = methods
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": _without_functions(self.scheduler),
            "methods": [method.state_dict() for method in self.methods],
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put everything back as ``state_dict`` found it."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(saved)
        restore_random_state(state["random"], self.device)


def _without_functions(scheduler: LRScheduler | None) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    state = scheduler.state_dict()
    return {key: value for key, value in state.items() if key != "lr_lambdas"} | {
        "lr_lambdas": [None] * len(state.get("lr_lambdas", []))
    }
