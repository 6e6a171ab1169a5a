"""Trackers of experiments, as a monitor hands its rows to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def logged_by(log: Any) -> Callable[[dict[str, float], int], None] | None:
    """How to hand a row to a tracker: a function ``log(row, step=step)``, or a ``SummaryWriter``.

    Raises:
        TypeError: if it is neither.
    """
    if log is None:
        return None
    if hasattr(log, "add_scalar"):

        def write(row: dict[str, float], step: int) -> None:
            for name, value in row.items():
                log.add_scalar(name, value, step)

        return write
    if not callable(log):
        raise TypeError(
            "log must be a function log(row, step=...), such as wandb.log, or a SummaryWriter: got "
            f"{type(log).__name__}"
        )
    return lambda row, step: log(row, step=step)
