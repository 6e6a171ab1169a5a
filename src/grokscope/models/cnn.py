"""The convolutional network of the experiments: stages of convolutions, then linear layers.

The scales are those of ``grokscope.MLP``: ``weight_scale`` enlarges the initial weights (Liu et al.
2023, "Omnigrok"), ``output_scale`` sets how lazily training starts (Chizat et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from grokscope.arguments import checked_arguments
from grokscope.measures.scale import Normalize
from grokscope.models.mlp import activation_class, add_last_modules, check_scale, check_size
from grokscope.models.seeding import seeded_initialization
from grokscope.spelling import unknown_name

DOWNSAMPLING = ("stride", "max", "average", "none")
_POOLS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
}


class CNN(nn.Sequential):
    """Convolutions in stages that each halve the picture, then linear layers: ``nn.Sequential``.

    A convolution has padding ``kernel // 2``, so that with an odd kernel it keeps the picture's
    size. ``downsample="stride"`` gives the first convolution of each stage stride 2; ``"max"`` and
    ``"average"`` put a 2 x 2 pooling after the last activation of each stage.

    Its modules are named, in order: ``normalize`` if ``mean`` is given; ``conv1``, ``batch_norm1``
    if asked for, ``activation1``, ``conv2``, ..., with ``pool1``, ``pool2``, ... where a stage
    ends; ``flatten``; ``linear1``, an activation, ..., the last linear layer without one; then
    ``scale`` if ``output_scale`` is not 1, and ``squeeze`` for a scalar output. Activations are
    numbered through.

    Args:
        in_shape: channels, height and width of one input.
        widths: output channels of each convolution.
        out_features: k, for outputs of shape (n, k); None for a scalar output, shape (n,).
        hidden: widths of the linear layers before the last.
        kernel: side of the square kernels.
        stage: how many convolutions form a stage.
        downsample: how a stage halves the picture: "stride", "max", "average" or "none".
        bias: whether convolutions and linear layers have biases.
        batch_norm: whether a BatchNorm follows each convolution.
        activation: one of ``ACTIVATIONS``, or a module class to be called without arguments.
        weight_scale: weights and biases of convolutions and linear layers are multiplied by it
            after PyTorch's default initialization.
        output_scale: the outputs are multiplied by it.
        mean: subtracted from the inputs inside the model, so that it takes pixels in [0, 1], as
            attacks need; a number or one for each channel. None takes inputs as they come.
        std: the inputs are divided by it; it belongs to ``mean``.
        seed: initialize from it, on the CPU, and leave the global random state alone; None draws
            from the global random state, as PyTorch's own modules do.

    Raises:
        ValueError: if a size is not a positive integer, a scale is not a positive number, a name
            is not known, ``mean`` and ``std`` do not go together, or nothing is left of the
            picture.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.CNN((3, 32, 32), [8, 8, 16, 16], 10, hidden=[64], bias=False, seed=0)
        >>> model(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    @checked_arguments
    def __init__(
        self,
        in_shape: Sequence[int],
        widths: Sequence[int],
        out_features: int | None,
        *,
        hidden: Sequence[int] = (),
        kernel: int = 3,
        stage: int = 2,
        downsample: str = "stride",
        bias: bool = True,
        batch_norm: bool = False,
        activation: str | type[nn.Module] = "relu",
        weight_scale: float = 1.0,
        output_scale: float = 1.0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        last = 1 if out_features is None else out_features
        _check_sizes(in_shape, widths, hidden, last, kernel, stage)
        check_scale("weight_scale", weight_scale)
        check_scale("output_scale", output_scale)
        if downsample not in DOWNSAMPLING:
            raise ValueError(unknown_name("downsample", downsample, DOWNSAMPLING))
        make_activation = activation_class(activation)
        if mean is not None or std is not None:
            self.add_module("normalize", _normalize(mean, std, in_shape[0]))
        with seeded_initialization(seed):
            for i, (fan_in, fan_out) in enumerate(pairwise([in_shape[0], *widths]), start=1):
                stride = 2 if downsample == "stride" and (i - 1) % stage == 0 else 1
                self.add_module(
                    f"conv{i}", nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=bias)
                )
                if batch_norm:
                    self.add_module(f"batch_norm{i}", nn.BatchNorm2d(fan_out))
                self.add_module(f"activation{i}", make_activation())
                if downsample in _POOLS and (i % stage == 0 or i == len(widths)):
                    self.add_module(f"pool{-(-i // stage)}", _POOLS[downsample](2))
            self.add_module("flatten", nn.Flatten())
            sizes = [_num_features(self, in_shape), *hidden, last]
            for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
                if i > 1:
                    self.add_module(f"activation{len(widths) + i - 1}", make_activation())
                self.add_module(f"linear{i}", nn.Linear(fan_in, fan_out, bias=bias))
        add_last_modules(self, out_features, output_scale)
        with torch.no_grad():
            for module in self:
                if isinstance(module, nn.Conv2d | nn.Linear):
                    for parameter in module.parameters():
                        parameter.mul_(weight_scale)


def _check_sizes(
    in_shape: Sequence[int],
    widths: Sequence[int],
    hidden: Sequence[int],
    out_features: int,
    kernel: int,
    stage: int,
) -> None:
    if len(in_shape) != 3:
        raise ValueError(
            f"in_shape must be channels, height and width: got {tuple(in_shape)}; pass images that "
            "are not flattened"
        )
    if not widths:
        raise ValueError("widths is empty: give it at least one convolution, or take gs.MLP")
    named = {"out_features": out_features, "kernel": kernel, "stage": stage}
    for name, sizes in (("in_shape", in_shape), ("widths", widths), ("hidden", hidden)):
        named |= {f"{name}[{i}]": size for i, size in enumerate(sizes)}
    for name, size in named.items():
        check_size(name, size)


def _normalize(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, channels: int
) -> Normalize:
    if mean is None or std is None:
        raise ValueError(f"mean and std go together: got mean={mean} and std={std}")
    layer = Normalize(mean, std)
    if len(layer.mean) not in (1, channels):
        raise ValueError(
            f"mean and std must be one number, or one for each of {channels} channel(s): got {mean}"
        )
    return layer


def _num_features(body: nn.Sequential, in_shape: Sequence[int]) -> int:
    """Features of one example after the modules so far."""
    height, width = in_shape[1:]
    channels = in_shape[0]
    for module in body:
        if isinstance(module, nn.Conv2d):
            channels, kernel, stride = module.out_channels, module.kernel_size[0], module.stride[0]
            lost = kernel - 2 * (kernel // 2)  # 0 with an even kernel, which adds a row
            height, width = (-(-(size + 1 - lost) // stride) for size in (height, width))
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            height, width = height // 2, width // 2
        if not height or not width:
            raise ValueError(
                f"nothing is left of a {in_shape[1]} x {in_shape[2]} picture after these stages: "
                "use fewer widths, or a larger stage"
            )
    return channels * height * width
