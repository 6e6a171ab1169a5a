"""Grokfast on several networks at once: it is elementwise, so one filter serves for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grokscope.methods.grokfast import Grokfast
from grokscope.methods.stacked.base import StackedMethod
from grokscope.methods.stacked.network import StackedNetwork, rows_of


class StackedGrokfast(StackedMethod[Grokfast]):
    """The slow gradients of each network; see ``Grokfast``."""

    def __init__(self, methods: Sequence[Grokfast]) -> None:
        super().__init__(methods)
        first = methods[0]
        self._whole = Grokfast(first.kind, first.strength, first.alpha, first.window)
        states = [method.state_dict() for method in methods]
        self._whole.load_state_dict(
            {
                key: torch.stack([own[key] for own in states], _axis(key))
                if isinstance(value, Tensor)
                else value
                for key, value in states[0].items()
            }
        )

    def filter_gradients(self, step: int, network: StackedNetwork) -> None:
        """Add the slow gradients to the gradients."""
        self._whole.add_slow_gradients(network.gradients())

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these networks only."""
        super().keep(rows)
        state = self._whole.state_dict().items()
        self._whole.load_state_dict(
            {key: _of_rows(value, _axis(key), rows) for key, value in state}
        )

    def write_back(self, row: int) -> None:
        """Put a network's slow gradients into its own method."""
        state = self._whole.state_dict().items()
        self.methods[row].load_state_dict(
            {
                key: value.select(_axis(key), row) if isinstance(value, Tensor) else value
                for key, value in state
            }
        )


def _axis(key: str) -> int:
    """Where the networks are counted: a ring counts its steps first."""
    return 1 if key.startswith("ring.") else 0


def _of_rows(value: Any, axis: int, rows: Sequence[int]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return rows_of(value.movedim(axis, 0), rows).movedim(0, axis)
