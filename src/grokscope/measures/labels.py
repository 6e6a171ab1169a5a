"""Labels of positions: one for each token of a sequence, or for each pixel of a picture.

As PyTorch's and Transformers' losses have it, classes come last, outputs (n, t, k) for labels
(n, t), or second, outputs (n, k, h, w) for labels (n, h, w); and the label -100 does not count.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
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
    return y.shape[1:] in (outputs.shape[1:-1], outputs.shape[2:])


def classes_last(outputs: Tensor, y: Tensor, lead: int = 1) -> Tensor:
    """The same outputs as (n, *t, k) where ``y`` is (n, *t); ``lead`` axes are not positions."""
    return outputs if outputs.shape[lead:-1] == y.shape[lead:] else outputs.movedim(lead, -1)


def counted(y: Tensor) -> Bool[Tensor, " n *t"]:
    """Which labels count."""
    return torch.ones_like(y, dtype=torch.bool) if y.is_floating_point() else y != IGNORED


def share_correct(correct: Bool[Tensor, " n *t"], y: Tensor) -> float:
    """The share of the labels that count whose outputs are correct; NaN where none counts.

    Example:
        >>> share_correct(torch.tensor([[True, False, False]]), torch.tensor([[4, 0, -100]]))
        0.5
    """
    if correct.shape != y.shape:  # one output an example, its target of any shape
        return int(correct.sum()) / len(correct)
    counting = counted(y)
    number = int(counting.sum())
    return int((correct & counting).sum()) / number if number else float("nan")
