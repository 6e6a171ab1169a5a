"""A network of one's own: any class or function that gives an ``nn.Module``."""

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two convolutions with BatchNorm, average pooling, and a linear layer.

    Args:
        width: channels of the first convolution; the second has twice as many.
        classes: outputs.
    """

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.head = nn.LazyLinear(classes)
        self.head(self.body(torch.zeros(2, 1, 8, 8)).flatten(1))  # for the size of its input

    def forward(self, x: Tensor) -> Tensor:
        """The logits (n, classes) of images (n, 1, 8, 8)."""
        return self.head(self.body(x).flatten(1))
