"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from grokscope.spelling import unknown_name

OPTIMIZERS = ("adamw", "adam", "sgd")
# the share of the learning rate that is left when a part of the steps after warm-up is done
DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda part: 1.0,
    "linear": lambda part: 1.0 - part,
    "cosine": lambda part: 0.5 * (1.0 + math.cos(math.pi * part)),
}


def named_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    capturable: bool = False,
) -> Optimizer:
    """An optimizer by name: "adamw" (decoupled decay), "adam" (L2 decay) or "sgd" (L2 decay).

    The fused kernels are used: on small networks they take about half the time. ``capturable``
    makes one whose steps can be recorded as a CUDA graph.

    Raises:
        ValueError: if the name is unknown or a setting is out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ValueError("model has no parameter to train: all are frozen, or there are none")
    if name == "sgd":
        return torch.optim.SGD(
            trained, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=True
        )
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(
        trained,
        lr=lr,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        fused=True,
        capturable=capturable,
    )


def learning_rate_schedule(
    optimizer: Optimizer, max_steps: int, warmup: int = 0, decay: str = "none"
) -> LambdaLR | None:
    """Linear warm-up, then constant, or linear or cosine decay to zero; None where lr is constant.

    Args:
        optimizer: whose learning rate is scheduled.
        max_steps: steps until the end of the decay.
        warmup: steps until the full learning rate.
        decay: "none", "linear" or "cosine".

    Raises:
        ValueError: if the decay is unknown.
    """
    if decay not in DECAYS:
        raise ValueError(unknown_name("decay", decay, DECAYS))
    if warmup == 0 and decay == "none":
        return None

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return DECAYS[decay]((done - warmup) / max(1, max_steps - warmup))

    return LambdaLR(optimizer, factor)
