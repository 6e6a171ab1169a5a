"""StableMax: a softmax that does not overflow into certainty.

Prieto, Barsbey, Mediano & Birdal (2025), "Grokking at the Edge of Numerical Stability",
arXiv:2501.04697. In place of exp it takes

    s(z) = z + 1 for z >= 0,   1 / (1 - z) for z < 0,

so probabilities s(z_i) / sum_j s(z_j) come near to 0 and 1 like 1 / z and not like exp(-z), and
the loss of fitted examples does not vanish in the rounding of the sum. log s(z) = log(1 + z) or
-log(1 - z), of which softmax makes the StableMax; everything is computed from these logarithms.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import check_number


@checked_arguments
def stable_logits(logits: Float[Tensor, "*n k"]) -> Float[Tensor, "*n k"]:
    """Log s(z): the logits whose softmax is the StableMax of ``logits``.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.stable_logits(torch.tensor([[0.0, 1.0, -1.0]])).exp()
        tensor([[1.0000, 2.0000, 0.5000]])
    """
    return log_stable(logits)


def log_stable(logits: Tensor) -> Tensor:
    """The same of logits that were checked before, as at each step of a training."""
    # clamped first: where() passes a NaN on from the branch that it does not take
    up, down = logits.clamp_min(0).log1p(), (-logits).clamp_min(0).log1p()
    return torch.where(logits >= 0, up, -down)


@checked_arguments
def stablemax_cross_entropy(
    logits: Float[Tensor, "n k"], y: Tensor, *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy with StableMax in place of softmax, mean over the batch.

    Args:
        logits: the network's outputs.
        y: class labels (n,), or probabilities of the classes (n, k).
        label_smoothing: share of the targets that is spread evenly over the classes.

    Example:
        >>> import torch, grokscope as gs
        >>> loss = gs.stablemax_cross_entropy(torch.tensor([[1.0, -1.0]]), torch.tensor([0]))
        >>> torch.isclose(loss, torch.tensor(0.8).log().neg())
        tensor(True)
    """
    check_number("label_smoothing", label_smoothing, least=0, most=1)
    check_targets(y, logits)
    return F.cross_entropy(log_stable(logits), y, label_smoothing=label_smoothing)


def check_targets(y: Tensor, outputs: Tensor) -> None:
    """Raise unless cross-entropy takes ``y`` as targets of these outputs."""
    n, k = outputs.shape[0], outputs.shape[1]
    if y.shape == outputs.shape and y.is_floating_point():
        return
    if y.shape != outputs[:, 0].shape:
        raise ValueError(
            f"y must hold a label for each of the {n} rows of logits: got {tuple(y.shape)}"
        )
    if y.is_floating_point():
        raise TypeError(f"y must hold integer labels, or probabilities (n, k): got {y.dtype}")
    # On an accelerator the kernel itself checks, and to read labels would wait for it.
    wrong = (y != -100) & ((y < 0) | (y >= k)) if y.device.type == "cpu" else y[:0]
    if bool(wrong.any()):
        raise ValueError(
            f"y must hold classes from 0 to {k - 1}, as logits have {k} columns: got "
            f"{int(y.min())} to {int(y.max())}"
        )
