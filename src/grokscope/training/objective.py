"""What training minimizes, and when an output counts as correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from grokscope.measures.batches import Batch, rows
from grokscope.measures.inputs import class_labels
from grokscope.measures.labels import (
    IGNORED,
    are_by_position,
    are_correct,
    classes_last,
    counted,
    has_positions,
    shares_correct,
)
from grokscope.measures.view import Model, outputs_of
from grokscope.methods.stablemax import log_stable
from grokscope.spelling import unknown_name

LOSSES = ("cross_entropy", "mse", "binary_cross_entropy", "stablemax")
OF_LABELS = ("cross_entropy", "stablemax")


@dataclass(frozen=True)
class Objective:
    """A loss with the form in which it takes its targets and the accuracy that goes with it.

    ``cross_entropy`` takes class labels, and so does ``stablemax``, which is cross-entropy with
    StableMax in place of softmax; they may be those of tokens or pixels, of which -100 does not
    count. ``mse`` takes one-hot targets and averages over all elements, as ``nn.MSELoss`` does;
    with one output, and with targets of the shape of the outputs, it takes them as they are.
    ``binary_cross_entropy`` takes one logit and labels 0 or 1, or as many of both for an example.
    Both take labels of positions too, of each the one-hot target.
    Any other function of outputs and labels serves as well; it is given the labels as they are.
    ``label_smoothing`` spreads that share of each target evenly over the classes; it is for classes
    of several outputs. With ``in_float64`` a loss by name is taken of the outputs in float64.
    """

    loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy"
    label_smoothing: float = 0.0
    in_float64: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ValueError(unknown_name("loss", self.loss, LOSSES))
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be at least 0 and less than 1: got {self.label_smoothing}"
            )
        if self.label_smoothing and (callable(self.loss) or self.loss == "binary_cross_entropy"):
            raise ValueError(
                "label_smoothing is for cross_entropy, stablemax and mse: smooth the targets in "
                "a loss of your own"
            )
        if self.in_float64 and callable(self.loss):
            raise ValueError(
                "loss_in_float64 is for a loss by name: call outputs.double() in a loss of your own"
            )

    def targets(self, y: Tensor, outputs: Tensor) -> Tensor:
        """The labels in the form that the loss takes, given outputs of the model for shape."""
        if self._takes_as_it_is(y, outputs):
            return y.to(outputs.dtype)
        if callable(self.loss):
            return y
        y = class_labels(y)
        if are_by_position(y, outputs):
            _check_classes(y[counted(y)], classes_last(outputs, y).shape[-1])
            return y
        many = outputs.ndim == 2 and outputs.shape[1] > 1
        if self.loss in OF_LABELS:
            if not many:
                raise ValueError(
                    f"{self.loss} needs one output for each class: the model gives shape "
                    f"{tuple(outputs.shape)} and y has shape {tuple(y.shape)}; use "
                    "binary_cross_entropy or mse for one output"
                )
            if y.is_floating_point():
                raise ValueError(f"{self.loss} needs integer class labels: y is {y.dtype}")
        if many:
            if y.is_floating_point() or y.ndim != 1:
                raise ValueError(
                    f"{self.loss} of {outputs.shape[1]} outputs needs integer class labels (n,) or "
                    f"targets (n, {outputs.shape[1]}): y is {y.dtype} of shape {tuple(y.shape)}"
                )
            _check_classes(y, outputs.shape[1])
        if self.loss in OF_LABELS:
            return y
        if many:
            return self._one_hot(y, outputs)
        if self.label_smoothing:
            raise ValueError("label_smoothing needs one output for each class: the model gives one")
        if y.numel() != len(y):
            raise ValueError(
                f"{self.loss} needs targets of the shape of the outputs: the model gives "
                f"{tuple(outputs.shape[1:])} for an example, and y has {tuple(y.shape[1:])}"
            )
        return y.to(outputs.dtype).reshape(-1, *([1] * (outputs.ndim - 1)))

    def _takes_as_it_is(self, y: Tensor, outputs: Tensor) -> bool:
        """Whether each output has a target of its own, as in regression and multi-label tasks."""
        own = outputs.ndim > 1 and y.shape[1:] == outputs.shape[1:] and outputs[0].numel() > 1
        return own and self.loss in ("mse", "binary_cross_entropy") and not self.label_smoothing

    def _one_hot(self, y: Tensor, outputs: Float[Tensor, "_ k"]) -> Float[Tensor, "n k"]:
        """Class labels (n,) as targets (n, k) like the outputs, smoothed as the loss is."""
        exact = F.one_hot(y, outputs.shape[1]).to(outputs.dtype)
        if not self.label_smoothing:
            return exact
        return exact.lerp(exact.new_tensor(1 / outputs.shape[1]), self.label_smoothing)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs, a scalar."""
        if callable(self.loss):
            return self._own_loss(outputs, targets)
        if self.in_float64:
            outputs = outputs.double()
            targets = targets.double() if targets.is_floating_point() else targets
        if has_positions(targets):  # which are rows like any other, but for those that do not count
            outputs = classes_last(outputs, targets).flatten(0, -2)
            targets = targets.flatten()
        if self.loss in OF_LABELS:
            logits = log_stable(outputs) if self.loss == "stablemax" else outputs
            return F.cross_entropy(
                logits, targets, ignore_index=IGNORED, label_smoothing=self.label_smoothing
            )
        of = F.mse_loss if self.loss == "mse" else F.binary_cross_entropy_with_logits
        if targets.is_floating_point():
            return of(outputs, targets)
        # Masked, not picked: picking rows would make a GPU wait for their number.
        counting = counted(targets)
        each = of(outputs, self._one_hot(targets.clamp_min(0), outputs), reduction="none").mean(1)
        return each.where(counting, 0).sum() / counting.sum()

    def _own_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss(outputs, targets)  # type: ignore[operator]
        if isinstance(loss, Tensor) and loss.numel() == 1:
            return loss.reshape(())
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss must return a tensor of one number, such as a mean: got {came}")

    def correct(self, outputs: Float[Tensor, " n *k"], y: Tensor) -> Bool[Tensor, " n *t"]:
        """Which outputs are correct: by the largest output, or by the side of the threshold.

        With one output the threshold is 0, or one half where squared error is trained on labels 0
        and 1.
        """
        return NetworksObjective(self).correct(outputs.unsqueeze(0), y.unsqueeze(0)).squeeze(0)


@dataclass(frozen=True)
class NetworksObjective:
    """What S networks minimize together: the sum of their losses, which gives each its gradient.

    Args:
        objective: the loss of one network.
    """

    objective: Objective

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over networks of each one's loss of outputs (S, n, ...), a scalar."""
        number = len(outputs)
        # the same numbers without the leading axis, whose views would cost as much as a small loss
        if number == 1:
            return self.objective(outputs.squeeze(0), targets.squeeze(0))
        if callable(self.objective.loss):
            return vmap(self.objective)(outputs, targets).sum()
        if has_positions(targets, lead=2):
            # A network's batch may leave out more labels than another's: a mean for each.
            both = zip(outputs, targets, strict=True)
            return torch.stack([self.objective(*one) for one in both]).sum()
        # Ours are means over examples, of which every network has as many.
        return number * self.objective(outputs.flatten(0, 1), targets.flatten(0, 1))

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " s"]:
        """The accuracy of each network on targets in the form that the loss takes."""
        return shares_correct(self.correct(outputs, targets), targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Bool[Tensor, "s n *t"]:
        """Which outputs are correct, for labels (S, n, *t) or one-hot targets (S, n, k)."""
        return are_correct(outputs, targets, halfway=self.objective.loss == "mse")


@torch.no_grad()
def loss_and_correct(
    model: Model,
    objective: Objective,
    x: Batch,
    targets: Tensor,
    y: Tensor,
    chunk_size: int = 10_000,
    *,
    with_correct: bool = True,
) -> tuple[float, Bool[Tensor, " n *t"] | None]:
    """Mean loss over a whole data set, and which answers are correct where that is asked."""
    total, weight, correct = 0.0, 0, []
    for part in range(0, len(y), chunk_size):
        chunk = slice(part, part + chunk_size)
        outputs = outputs_of(model, rows(x, chunk))
        size = int(counted(y[chunk]).sum()) if has_positions(y) else len(outputs)
        if size:
            total += float(objective(outputs, targets[chunk])) * size
            weight += size
        if with_correct:
            correct.append(objective.correct(outputs, y[chunk]))
    loss = total / weight if weight else float("nan")
    return loss, torch.cat(correct) if with_correct else None


def _check_classes(y: Tensor, classes: int) -> None:
    """Raise unless each label is one of so many classes."""
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"y holds class {int(y.min())}: classes count from 0")
    if len(y) and int(y.max()) >= classes:
        top = int(y.max())
        raise ValueError(
            f"y holds class {top} but the model has {classes} outputs; give it {top + 1}"
        )
