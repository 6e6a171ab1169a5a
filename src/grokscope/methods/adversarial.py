"""Adversarial training: train on inputs perturbed by an amount that follows training accuracy.

Tan & Huang (2023), "Understanding Grokking Through A Robustness Viewpoint", arXiv:2311.06597: a
network that withstands perturbations of its training inputs has generalised, so perturb them. The
size of the perturbation at a step is

    size * accuracy                        follows="accuracy"
    max(size * (1 - accuracy), floor)      follows="error"

where accuracy is that of the last batch trained on. Once the data are fitted the first is ``size``
and the second ``floor``. The second, with Gaussian noise, size 0.06 and floor 0.03, is the
comparison of GrokAlign's published code (Walker et al. 2025, Table 1).

Cost: "noise" draws one normal number an input; "gradient" adds a forward and a backward pass.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from grokscope.methods.base import LossFunction, Method


def noisy_inputs(
    x: Float[Tensor, " n *d"],
    size: float | Tensor,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n *d"]:
    """The inputs with Gaussian noise of the standard deviation ``size``.

    ``generator`` (None: the global one) may live on another device than ``x``.

    >>> import torch, grokscope as gs
    >>> gs.noisy_inputs(torch.zeros(2, 3), 0.1, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    device = x.device if generator is None else generator.device
    noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)
    return x + noise.to(x.device) * size


def adversarial_inputs(
    model: nn.Module,
    x: Float[Tensor, " n *d"],
    y: Tensor,
    size: float | Tensor,
    loss: LossFunction = F.cross_entropy,
) -> Float[Tensor, " n *d"]:
    """The inputs moved by ``size`` in every element, the way that raises the loss.

    One step along the sign of the loss's gradient (Goodfellow et al. 2015, arXiv:1412.6572), with
    the model in eval mode, so that neither running statistics nor random numbers are touched.

    >>> import torch, grokscope as gs
    >>> model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    >>> moved = gs.adversarial_inputs(model, x, torch.tensor([0, 1, 0, 1]), size=0.1)
    >>> torch.allclose((moved - x).abs(), torch.tensor(0.1))
    True
    """
    modes = {module: module.training for module in model.modules()}
    leaf = x.detach().clone().requires_grad_()
    model.eval()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(model(leaf), y), leaf)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return x + gradient.sign() * size


def is_right(outputs: Float[Tensor, " n *k"], targets: Tensor) -> Bool[Tensor, " n"]:
    """Which outputs are right by their largest, or for one output by its sign."""
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs.argmax(1) == targets
    return (outputs.reshape(-1) > 0) == (targets.reshape(-1) > 0)


class AdversarialTraining(Method):
    """Perturbs the training inputs, the more the better they are fitted.

    In one's own loop train on the result of a call, and tell the method of the outputs, from
    which it knows the accuracy.

    Args:
        size: Of the perturbation, in units of the inputs; 0 (with ``floor`` 0) leaves training as
            it is, bit for bit.
        kind: "noise", Gaussian of that standard deviation, or "gradient", that much in every
            element in the direction that raises the loss.
        follows: "accuracy", size * accuracy, or "error", max(size * (1 - accuracy), floor).
        floor: Least size for "error".
        seed: Of the method's own generator; the global random state is not touched.

    Raises:
        ValueError: If an argument is out of range.

    >>> import torch, grokscope as gs
    >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
    >>> adversarial = gs.AdversarialTraining(size=0.03)
    >>> outputs = model(adversarial(model, x, y))
    >>> adversarial.saw(outputs, y)  # and then the loss, backward and the optimizer's step
    """

    name: ClassVar[str] = "adversarial"

    def __init__(
        self,
        size: float = 0.03,
        kind: str = "noise",
        follows: str = "accuracy",
        floor: float = 0.0,
        seed: int = 0,
    ) -> None:
        if kind not in ("noise", "gradient"):
            raise ValueError(f"kind must be 'noise' or 'gradient': got {kind!r}")
        if follows not in ("accuracy", "error"):
            raise ValueError(f"follows must be 'accuracy' or 'error': got {follows!r}")
        for name, value in (("size", size), ("floor", floor)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or positive, and finite: got {value}")
        if floor and follows == "accuracy":
            raise ValueError(f"floor is for follows='error': got {floor} with follows='accuracy'")
        self.size = size
        self.kind = kind
        self.follows = follows
        self.floor = floor
        self.generator = torch.Generator().manual_seed(seed)
        self._accuracy = torch.zeros(())
        self._targets: Tensor | None = None
        self._is_right = is_right

    def perturb(
        self, step: int, model: nn.Module, x: Tensor, y: Tensor, loss: LossFunction
    ) -> Tensor:
        """The inputs to train on at this step."""
        if self.size == 0 and self.floor == 0:
            return x
        self._targets = y
        # the loss of grokscope's own loop knows on which side of what a single output must be
        self._is_right = getattr(loss, "correct", is_right)
        size = self.size_at(self._accuracy).to(x)
        if self.kind == "noise":
            return noisy_inputs(x, size, self.generator)
        return adversarial_inputs(model, x, y, size, loss)

    def penalty(self, step: int, model: nn.Module, x: Tensor, outputs: Tensor) -> None:
        """Nothing; the accuracy of ``outputs`` is noted for the next step."""
        if self._targets is not None:
            self.saw(outputs, self._targets)
            self._targets = None

    def saw(self, outputs: Float[Tensor, " n *k"], y: Tensor) -> None:
        """Note how accurate the network was on a batch with labels or one-hot targets ``y``."""
        labels = y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y
        self._accuracy = self._is_right(outputs.detach(), labels).to(torch.float32).mean()

    def size_at(self, accuracy: Float[Tensor, " *s"]) -> Float[Tensor, " *s"]:
        """The size of the perturbation at an accuracy."""
        if self.follows == "accuracy":
            return self.size * accuracy
        return (self.size * (1 - accuracy)).clamp_min(self.floor)

    def __call__(
        self,
        model: nn.Module,
        x: Float[Tensor, " n *d"],
        y: Tensor,
        loss: LossFunction = F.cross_entropy,
    ) -> Float[Tensor, " n *d"]:
        """The inputs to train on, in one's own loop."""
        perturbed = self.perturb(0, model, x, y, loss)
        self._targets = None
        return perturbed

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator and the last accuracy."""
        return {"generator": self.generator.get_state(), "accuracy": self._accuracy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.generator.set_state(state["generator"].cpu())
        self._accuracy = state["accuracy"].clone()
