"""Where training runs."""

from __future__ import annotations

import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; "auto" is CUDA where there is one, else MPS, else the CPU.

    Raises:
        ValueError: if there is no such device, or it is not available here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device must be "auto", "cpu", "cuda" or "mps": got {device!r}') from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(place.type, False):
        raise ValueError(f'device {device!r} is not available here; use "cpu" or "auto"')
    return place


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock can be read.

    On CUDA that is what the current stream was given: trainings in other threads and streams go
    on, and one of them may be capturing a graph, when the whole device cannot be waited for.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
