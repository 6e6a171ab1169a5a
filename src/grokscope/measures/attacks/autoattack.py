"""AutoAttack (Croce & Hein 2020, arXiv:2003.01690): the standard ensemble of four attacks.

The attacks are those of the authors, in the package pyautoattack: Auto-PGD on the cross-entropy and
on the targeted difference of logits ratio, FAB towards target classes, and Square, which sees
outputs only. Its own evaluation is not run: it switches off the tracing of debuggers and coverage
tools and returns no accuracy. The order, settings and seeds here are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grokscope.measures.attacks.pgd import Logits
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.inputs import NO_GRADIENT

# (outputs at points, examples (n, *d), their classes (n,)) -> perturbed examples (n, *d)
Attack = Callable[[Logits, Tensor, Tensor], Tensor]

NORMS = ("Linf", "L2", "L1")
_MOST_TARGETS = {"Linf": 9, "L2": 9, "L1": 5}


def standard_attacks(
    num_classes: int, images: bool, norm: str, eps: float, bounds: tuple[float, float], seed: int
) -> dict[str, Attack]:
    """The attacks in their order, by name.

    Fewer than ten classes have fewer targets; three have no targeted difference of logits ratio,
    which takes four outputs, and get the untargeted one; two have none. Square in l2 and l1 moves
    windows about an image, and is left out for other inputs.

    Args:
        num_classes: k.
        images: whether inputs have channels, height and width.
        norm: "Linf", "L2" or "L1".
        eps: the radius.
        bounds: lowest and highest value of an input.
        seed: of each attack's random numbers.

    Raises:
        ImportError: if pyautoattack is not installed.
    """
    names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    if num_classes < 4:
        names = ["apgd-ce", *["apgd-dlr"][: num_classes - 2], "fab-t", "square"]
    if not images and norm != "Linf":
        names.remove("square")
    return {name: _attack(name, num_classes, norm, eps, bounds, seed) for name in names}


def _attack(
    name: str, num_classes: int, norm: str, eps: float, bounds: tuple[float, float], seed: int
) -> Attack:
    low, high = bounds
    width = high - low

    def attack(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
        # Square takes images alone: features of another input become channels of one pixel
        shape = x.shape if x.ndim == 4 else (len(x), x[0].numel(), 1, 1)

        def outputs(pixels: Tensor) -> Tensor:
            points = pixels.reshape(-1, *x.shape[1:]).to(x.dtype) * width + low
            return _InputOnly.apply(points, logits).float()

        ensemble = _ensemble(outputs, norm, eps / width, num_classes, seed, str(x.device))
        with _generators_kept():
            found = _component(ensemble, name).perturb(
                ((x - low) / width).reshape(shape).float(), y
            )
        return found.detach().reshape(x.shape).to(x.dtype) * width + low

    return attack


def _ensemble(
    outputs: Callable[[Tensor], Tensor],
    norm: str,
    eps: float,
    num_classes: int,
    seed: int,
    device: str,
) -> Any:
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            "attack='autoattack' needs pyautoattack: pip install 'grokscope[attack]', or take "
            "attack='apgd'"
        ) from error
    ensemble = AutoAttack(outputs, norm=norm, eps=eps, seed=seed, device=device)
    targets = min(num_classes - 1, _MOST_TARGETS[norm])
    ensemble.apgd_targeted.n_target_classes = targets
    ensemble.fab.n_target_classes = min(num_classes - 1, 9)
    return ensemble


def _component(ensemble: Any, name: str) -> Any:
    """The attack of this name, set up as the standard evaluation sets it up."""
    component = {
        "apgd-ce": ensemble.apgd,
        "apgd-dlr": ensemble.apgd,
        "apgd-t": ensemble.apgd_targeted,
        "fab-t": ensemble.fab,
        "square": ensemble.square,
    }[name]
    if component is ensemble.apgd:
        component.loss = name.removeprefix("apgd-")
    if component is ensemble.fab:
        component.targeted = True
    return component


@contextmanager
def _generators_kept() -> Iterator[None]:
    """The attacks seed the global generators of all devices: put them back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield


class _InputOnly(torch.autograd.Function):
    """The outputs at points, differentiable by the points and by nothing else.

    FAB calls ``backward``, which would add to the gradients of the model's parameters.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, logits: Logits) -> Tensor:
        examples = torch.arange(len(points), device=points.device)
        if not ctx.needs_input_grad[0]:
            return logits(points, examples)
        with torch.enable_grad():
            ctx.leaf = points.detach().requires_grad_()
            ctx.outputs = logits(ctx.leaf, examples)
        if not ctx.outputs.requires_grad:
            raise ValueError(NO_GRADIENT)
        return ctx.outputs.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = gradients_or_zeros(ctx.outputs, [ctx.leaf], gradient, retain_graph=True)
        return slope, None
