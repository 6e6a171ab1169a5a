"""Autocast switched off: what a measure is given sets its precision, wherever the caller stands."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off, at no cost where it is off already."""
    device = tensor.device.type
    active = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if active else nullcontext()


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run without autocast on the CPU and on CUDA devices.

    Example:
        >>> half = torch.autocast("cpu", torch.bfloat16)
        >>> with half:
        ...     without_autocast(torch.mm)(torch.eye(2), torch.eye(2)).dtype
        torch.float32
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return run
