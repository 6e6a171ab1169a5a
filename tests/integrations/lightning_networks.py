"""A small LightningModule and its data, also for the processes of the distributed test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import grokscope as gs
from grokscope.methods import Method

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
DATA = TensorDataset(X, Y)
PLAIN: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Dropout(0.0), nn.Linear(7, 3))


def methods() -> list[Method]:
    return [gs.GrokAlign(0.1, projections=None), gs.Grokfast(alpha=0.5), gs.GradientNoise()]


class Classifier(lightning.LightningModule):
    """A LightningModule as its tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Sequence[Tensor], _index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class OnlyItsNet(lightning.LightningModule):
    """One without a forward, whose training step calls a module in it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Sequence[Tensor], _index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    configure_optimizers = Classifier.configure_optimizers


def loader(batch_size: int = 6) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=batch_size)
