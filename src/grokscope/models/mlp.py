"""The multilayer perceptron of the experiments, with the two scales that decide when it groks.

``weight_scale`` enlarges the initial weights (Liu et al. 2023, "Omnigrok"); ``output_scale`` sets
how lazily training starts (Chizat et al. 2019; Kumar et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from grokscope.arguments import checked_arguments
from grokscope.measures.scale import Scale
from grokscope.models.seeding import seeded_initialization
from grokscope.spelling import unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class MLP(nn.Sequential):
    """Linear layers with an activation between them: a plain ``nn.Sequential``.

    Its modules are named, in order: ``flatten`` (inputs of shape (n, ...) become (n, d)),
    ``linear1``, ``activation1``, ``linear2``, ..., the last linear layer without an activation
    after it, then ``scale`` if ``output_scale`` is not 1, and ``squeeze`` for a scalar output.

    Args:
        in_features: d, numbers in one input.
        widths: width of each hidden layer; empty for a linear model.
        out_features: k, for outputs of shape (n, k); None for a scalar output, shape (n,).
        bias: whether the linear layers have biases.
        activation: one of ``ACTIVATIONS``, or a module class to be called without arguments.
        weight_scale: every parameter is multiplied by it after PyTorch's default initialization.
        output_scale: the outputs are multiplied by it.
        seed: initialize from it, on the CPU, and leave the global random state alone; None draws
            from the global random state, as PyTorch's own modules do.

    Raises:
        ValueError: if a size is not a positive integer, a scale is not a positive number, or the
            activation is not known.

    Example:
        >>> import grokscope as gs
        >>> gs.MLP(784, [200, 200], 10, weight_scale=8.0, seed=0)(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 10])
    """

    @checked_arguments
    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        out_features: int | None,
        *,
        bias: bool = True,
        activation: str | type[nn.Module] = "relu",
        weight_scale: float = 1.0,
        output_scale: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [in_features, *widths, 1 if out_features is None else out_features]
        names = ["in_features", *(f"widths[{i}]" for i in range(len(widths))), "out_features"]
        for name, size in zip(names, sizes, strict=True):
            check_size(name, size)
        check_scale("weight_scale", weight_scale)
        check_scale("output_scale", output_scale)
        make_activation = activation_class(activation)
        self.add_module("flatten", nn.Flatten())
        with seeded_initialization(seed):
            for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
                if i > 1:
                    self.add_module(f"activation{i - 1}", make_activation())
                self.add_module(f"linear{i}", nn.Linear(fan_in, fan_out, bias=bias))
        add_last_modules(self, out_features, output_scale)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(weight_scale)


def add_last_modules(network: nn.Sequential, out_features: int | None, output_scale: float) -> None:
    """Add what follows the last linear layer: ``scale`` if it is not 1, ``squeeze`` to a scalar."""
    if output_scale != 1:
        network.add_module("scale", Scale(output_scale))
    if out_features is None:
        network.add_module("squeeze", nn.Flatten(0))


def activation_class(activation: str | type[nn.Module]) -> type[nn.Module]:
    """The module class of an activation by name; a class is returned as it is.

    Raises:
        ValueError: if the name is not one of ``ACTIVATIONS``.
    """
    if not isinstance(activation, str):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", activation, ACTIVATIONS))
    return ACTIVATIONS[activation]


def check_size(name: str, size: int) -> None:
    """Raise unless ``size``, an integer, is positive."""
    if size < 1:
        raise ValueError(f"{name} must be a positive integer: got {size!r}")


def check_scale(name: str, scale: float) -> None:
    """Raise unless ``scale``, a finite number, is positive."""
    if scale <= 0:
        raise ValueError(f"{name} must be a positive number: got {scale}")
