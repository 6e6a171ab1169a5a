"""GrokAlign on MNIST: the generalization that weight decay alone reaches at about step 14,500."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs


def _idx(path: Path, header: int) -> Tensor:
    return torch.frombuffer(
        bytearray(gzip.decompress(path.read_bytes())[header:]), dtype=torch.uint8
    )


def _images_and_labels(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    images = _idx(folder / f"{name}-images-idx3-ubyte.gz", 16).view(-1, 784)
    return images / 255, _idx(folder / f"{name}-labels-idx1-ubyte.gz", 8).long()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"every": 4}, {"projections": None}])
def test_it_generalizes_within_1500_steps(shared_data: Path, options: dict[str, Any]) -> None:
    images, labels = _images_and_labels(shared_data / "mnist", "train")
    images, labels = images[:1000], labels[:1000]
    test_images, test_labels = _images_and_labels(shared_data / "mnist", "t10k")
    model = nn.Sequential(
        nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    grokalign = gs.GrokAlign(weight=1e-3, **options)
    grokalign.start(model)
    accuracy = 0.0
    for step in range(1, 1501):
        batch = torch.randperm(1000)[:200]
        x, y = images[batch], labels[batch]
        loss = nn.functional.cross_entropy(model(x), y) + grokalign(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            with torch.no_grad():
                accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
            if accuracy >= 0.85:
                return
    pytest.fail(f"test accuracy is {accuracy:.3f} after 1,500 steps")
