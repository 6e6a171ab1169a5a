"""Derivatives, whatever the caller's mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grokscope.measures.guard import undisturbed


@contextmanager
def differentiating(model: nn.Module) -> Iterator[None]:
    """Derivatives on; the model and the random state are put back."""
    with undisturbed(model), torch.inference_mode(False), torch.enable_grad():
        yield


def usable(x: Tensor) -> Tensor:
    """``x`` without its graph, and outside of inference mode."""
    return x.clone() if x.is_inference() else x.detach()
