"""ResNet-18 for small images, in PyTorch."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut (He et al. 2016)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.shortcut = nn.Sequential()
        if stride > 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, fan_out, height / stride, width / stride)."""
        h = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(h)) + self.shortcut(x)).relu()


class ResNet18(nn.Module):
    """Eight residual blocks of ``width`` to 8 ``width`` channels, and a linear layer."""

    def __init__(self, width: int = 16, num_outputs: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks, fan_in = [], width
        for stage in range(4):
            for index in range(2):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(ResidualBlock(fan_in, fan_in := width * 2**stage, stride))
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(fan_in, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_outputs) of images (n, 3, height, width)."""
        return self.last(self.blocks(self.stem(x)).mean((2, 3)))
