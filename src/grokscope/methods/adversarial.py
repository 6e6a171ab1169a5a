"""Adversarial training: train on inputs perturbed by an amount that follows training accuracy.

Tan & Huang (2023), "Understanding Grokking Through A Robustness Viewpoint", arXiv:2311.06597: a
network that withstands perturbations of its training inputs has generalized, so perturb them. The
size of the perturbation at a step is

    eps * accuracy                        schedule="accuracy"
    max(eps * (1 - accuracy), floor)      schedule="error"

where accuracy is that of the last batch trained on. Once the data are fitted the first is ``eps``
and the second ``floor``. The second, with Gaussian noise, eps 0.06 and floor 0.03, is the
comparison of GrokAlign's published code (Walker et al. 2025, Table 1).

Cost: "noise" draws one normal number an input; "fgsm" adds a forward and a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, Key, leaf_at, map_leaves, with_leaf, wrt_key
from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.inputs import (
    NO_GRADIENT,
    check_batch,
    check_model,
    check_number,
    class_labels,
)
from grokscope.measures.labels import are_correct, shares_correct
from grokscope.measures.view import wrt_of
from grokscope.methods.base import Loss, Method
from grokscope.methods.networks import Networks, OneNetwork, normal_numbers
from grokscope.methods.stablemax import check_targets

OwnLoss = Callable[[Tensor, Tensor], Tensor]


@checked_arguments
def noisy_inputs(
    x: Float[Tensor, " n *d"],
    std: float | Tensor,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n *d"]:
    """The inputs with Gaussian noise of the standard deviation ``std``.

    ``generator`` (None: the global one) may live on another device than ``x``.

    Example:
        >>> import torch, grokscope as gs
        >>> gs.noisy_inputs(torch.zeros(2, 3), 0.1, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    check_batch(x)
    if not isinstance(std, Tensor):
        check_number("std", std, least=0)
    (noise,) = normal_numbers([generator], x.shape, x.device, x.dtype)
    return x + noise * std


@checked_arguments
def adversarial_inputs(
    model: nn.Module,
    x: Float[Tensor, " n *d"],
    y: Tensor,
    eps: float | Tensor,
    loss: OwnLoss = F.cross_entropy,
) -> Float[Tensor, " n *d"]:
    """The inputs moved by ``eps`` in every element, the way that raises the loss.

    One step along the sign of the loss's gradient (Goodfellow et al. 2015, arXiv:1412.6572), with
    the model in eval mode, so that neither running statistics nor random numbers are touched.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
        >>> moved = gs.adversarial_inputs(model, x, torch.tensor([0, 1, 0, 1]), eps=0.1)
        >>> torch.allclose((moved - x).abs(), torch.tensor(0.1))
        True
    """
    check_batch(x)
    check_model(model)
    if not isinstance(eps, Tensor):
        check_number("eps", eps, least=0)
    batch, labels = x.unsqueeze(0), _labels(y, loss).unsqueeze(0)
    uphill = _uphill(OneNetwork(model), batch, None, labels, _LossOfOne(loss))
    return x + uphill.squeeze(0) * eps


class AdversarialTraining(Method):
    """Perturbs the training inputs, the more the better they are fitted.

    In one's own loop train on the result of a call, and tell the method of the outputs, from
    which it knows the accuracy. Of inputs of several tensors the floating-point one is perturbed,
    or the one that a ``gs.View`` names by ``wrt``.

    Args:
        eps: size of the perturbation, in units of the inputs; 0 (with ``floor`` 0) leaves
            training as it is, bit for bit.
        attack: "noise", Gaussian of that standard deviation, or "fgsm", the fast gradient sign
            method: that much in every element in the direction that raises the loss.
        schedule: "accuracy", eps * accuracy, or "error", max(eps * (1 - accuracy), floor).
        floor: least size for "error".
        seed: of the method's own generator; the global random state is not touched.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> adversarial = gs.AdversarialTraining(eps=0.03)
        >>> outputs = model(adversarial(model, x, y))
        >>> adversarial.saw(outputs, y)  # and then the loss, backward and the optimizer's step
    """

    name: ClassVar[str] = "adversarial"
    always_kept: ClassVar[tuple[str, ...]] = ("generator", "accuracy")

    @checked_arguments
    def __init__(
        self,
        eps: float = 0.03,
        attack: str = "noise",
        schedule: str = "accuracy",
        floor: float = 0.0,
        seed: int = 0,
    ) -> None:
        if attack not in ("noise", "fgsm"):
            raise ValueError(f"attack must be 'noise' or 'fgsm': got {attack!r}")
        if schedule not in ("accuracy", "error"):
            raise ValueError(f"schedule must be 'accuracy' or 'error': got {schedule!r}")
        for name, value in (("eps", eps), ("floor", floor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or positive, and finite: got {value}")
        if floor and schedule == "accuracy":
            raise ValueError(f"floor is for schedule='error': got {floor} with schedule='accuracy'")
        self.eps = eps
        self.attack = attack
        self.schedule = schedule
        self.floor = floor
        self.generators = [torch.Generator().manual_seed(seed)]
        self.state = {"accuracy": torch.zeros(1)}
        self._seen: tuple[Loss, Tensor] | None = None

    def perturb(self, step: int, networks: Networks, x: Batch, y: Tensor, loss: Loss) -> Batch:
        """The inputs (S, n, *d) to train on at this step; of several tensors ``wrt`` is moved."""
        if self.eps == 0 and self.floor == 0:
            return x
        self._seen = loss, y
        key = wrt_key(x, wrt_of(networks.model))
        leaf = leaf_at(x, key)
        accuracy = self.state["accuracy"] = self.state["accuracy"].to(leaf.device)
        # (S, 1, ...): each network's own size, never read on the host, which would wait for the
        # device
        size = self.size_at(accuracy).to(leaf.dtype).view(-1, *[1] * (leaf.ndim - 1))
        if self.attack == "fgsm":
            return with_leaf(x, key, leaf + _uphill(networks, x, key, y, loss) * size)
        # what is called again at every replay holds on to no tensor of this step
        shape, device, dtype = leaf.shape[1:], leaf.device, leaf.dtype

        def noise(_step: int) -> Tensor:
            return normal_numbers(self.generators, shape, device, dtype)

        return with_leaf(x, key, torch.addcmul(leaf, networks.from_host(step, noise), size))

    def penalty(self, step: int, networks: Networks, x: Batch, outputs: Tensor) -> None:
        """Nothing; the accuracies of ``outputs`` are noted for the next step."""
        if self._seen is not None:
            loss, y = self._seen
            # in place: a recorded step writes there
            self.state["accuracy"].copy_(loss.accuracy(outputs.detach(), y))
            self._seen = None

    def saw(self, outputs: Float[Tensor, " n *k"], y: Tensor) -> None:
        """Note how accurate the network was on a batch with labels or one-hot targets ``y``."""
        of = (outputs.detach().unsqueeze(0), y.unsqueeze(0))
        self.state["accuracy"] = shares_correct(are_correct(*of), of[1])

    def size_at(self, accuracy: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        """The size of the perturbation at an accuracy."""
        if self.schedule == "accuracy":
            return self.eps * accuracy
        return (self.eps * (1 - accuracy)).clamp_min(self.floor)

    def capturable(self) -> bool:
        """Yes: the accuracy stays on the device."""
        return True

    def __call__(
        self, model: nn.Module, x: Batch, y: Tensor, loss: OwnLoss = F.cross_entropy
    ) -> Batch:
        """The inputs to train on, in one's own loop."""
        whole = map_leaves(lambda leaf: leaf.unsqueeze(0), x)
        labels = _labels(y, loss).unsqueeze(0)
        perturbed = self.perturb(0, OneNetwork(model), whole, labels, _LossOfOne(loss))
        self._seen = None
        return map_leaves(lambda leaf: leaf.squeeze(0), perturbed)


def _uphill(
    networks: Networks, x: Batch, key: Key, y: Tensor, loss: Loss
) -> Float[Tensor, "s n *d"]:
    """The sign of the gradient of each network's loss by the leaf at ``key``, in eval mode."""
    leaf = leaf_at(x, key).detach().clone().requires_grad_()
    with networks.evaluating(), torch.enable_grad():
        value = loss(networks(with_leaf(x, key, leaf)), y)
        if not value.requires_grad:
            raise ValueError(NO_GRADIENT)
        (gradient,) = gradients_or_zeros(value, [leaf])
    return gradient.sign()


def _labels(y: Tensor, loss: OwnLoss) -> Tensor:
    """Labels of any integer type as cross-entropy takes them; for other losses as they are."""
    return class_labels(y) if loss is F.cross_entropy else y


@dataclass(frozen=True)
class _LossOfOne:
    """A loss of outputs and labels of one network, with the leading axis of one."""

    loss: OwnLoss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs, targets = outputs.squeeze(0), targets.squeeze(0)
        if self.loss is F.cross_entropy and outputs.ndim > 1:
            check_targets(targets, outputs)
        return self.loss(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return shares_correct(are_correct(outputs, targets), targets)
