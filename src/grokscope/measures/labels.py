"""Labels of positions: one for each token of a sequence, or for each pixel of a picture.

As PyTorch's and Transformers' losses have it, classes come last, outputs (n, t, k) for labels
(n, t), or second, outputs (n, k, h, w) for labels (n, h, w); and the label -100 does not count.
"""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

IGNORED = -100  # as ignore_index of torch.nn.CrossEntropyLoss


def are_by_position(y: Tensor, outputs: Tensor) -> bool:
    """Whether integer labels ``y`` (n, *t) are those of the positions of ``outputs``.

    Example:
        >>> y = torch.zeros(2, 5, dtype=torch.int64)
        >>> are_by_position(y, torch.zeros(2, 5, 3)), are_by_position(y, torch.zeros(2, 3, 5))
        (True, True)
        >>> are_by_position(y[:, 0], torch.zeros(2, 3))
        False
    """
    if y.is_floating_point() or y.ndim < 2 or outputs.ndim != y.ndim + 1:
        return False
    # classes last, as Transformers has them, or second, as PyTorch's losses do
    return y.shape[1:] in (outputs.shape[1:-1], outputs.shape[2:])


def has_positions(y: Tensor, lead: int = 1) -> bool:
    """Whether integer labels, behind ``lead`` axes of networks and examples, have positions."""
    return y.ndim > lead and not y.is_floating_point()


def classes_last(outputs: Tensor, y: Tensor, lead: int = 1) -> Tensor:
    """The same outputs as (n, *t, k) where ``y`` is (n, *t); ``lead`` axes are not positions."""
    return outputs if outputs.shape[lead:-1] == y.shape[lead:] else outputs.movedim(lead, -1)


def counted(y: Tensor) -> Bool[Tensor, " n *t"]:
    """Which labels count."""
    return torch.ones_like(y, dtype=torch.bool) if y.is_floating_point() else y != IGNORED


def are_correct(
    outputs: Tensor, targets: Tensor, *, halfway: bool = False
) -> Bool[Tensor, "s n *t"]:
    """Which outputs (S, n, ...) of S networks are correct.

    The largest of several outputs has to be that of the label, (S, n, *t), or of the one-hot target
    (S, n, k). One output has to lie on the side of 0 on which its target does; ``halfway``: of one
    half, for networks whose targets are 0 and 1.
    """
    has_classes = outputs.ndim == 3 and outputs.shape[2] > 1
    if has_classes and targets.ndim == 2:  # the usual case, at every step of a training
        return outputs.argmax(2) == targets
    if are_by_position(targets.flatten(0, 1), outputs.flatten(0, 1)):
        return classes_last(outputs, targets, lead=2).argmax(-1) == targets
    if has_classes:
        return outputs.argmax(2) == targets.argmax(2)
    score, sign = outputs.flatten(1), targets.flatten(1)
    between = 0.5 * ~(sign < 0).any(1, keepdim=True) if halfway else 0
    return (score > between) == (sign > 0)


def shares_correct(correct: Bool[Tensor, "s n *t"], targets: Tensor) -> Float[Tensor, " s"]:
    """The share of correct outputs of each of S networks, on their device: no step waits for it.

    Of positions those without a label are left out, and where none has one the share is NaN.
    """
    labeled = correct.shape == targets.shape and targets.ndim > 2  # a row always has a label
    right, of = _counts(correct, counted(targets) if labeled else None)
    return right / of


def share_correct(correct: Bool[Tensor, " n *t"], y: Tensor) -> float:
    """The share of the labels that count whose outputs are correct; NaN where none counts.

    Example:
        >>> share_correct(torch.tensor([[True, False, False]]), torch.tensor([[4, 0, -100]]))
        0.5
    """
    # an output that stands for a target of several numbers counts as one
    counting = counted(y).unsqueeze(0) if correct.shape == y.shape else None
    right, of = map(int, _counts(correct.unsqueeze(0), counting))
    return right / of if of else float("nan")


def _counts(
    correct: Bool[Tensor, "s n *t"], counting: Bool[Tensor, "s n *t"] | None
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"] | int]:
    """Of each network the outputs that are correct and those that count, None for all of them.

    Both are whole numbers: a mean of floats would depend on the order of its summands.
    """
    if counting is None:
        return correct.flatten(1).sum(1), prod(correct.shape[1:])
    return (correct & counting).flatten(1).sum(1), counting.flatten(1).sum(1)
