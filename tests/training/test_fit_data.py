"""What `fit` takes as data: all forms of the same examples train the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import grokscope as gs

generator = torch.Generator().manual_seed(0)
TRAIN = torch.randn(24, 5, generator=generator), torch.randint(3, (24,), generator=generator)
TEST = torch.randn(12, 5, generator=generator), torch.randint(3, (12,), generator=generator)

FORMS: dict[str, Callable[[], Any]] = {
    "four tensors": lambda: (*TRAIN, *TEST),
    "pairs": lambda: (TRAIN, TEST),
    "arrays": lambda: tuple((x.numpy(), y.numpy()) for x, y in (TRAIN, TEST)),
    "data sets": lambda: (TensorDataset(*TRAIN), TensorDataset(*TEST)),
    "shuffling loaders": lambda: [
        DataLoader(TensorDataset(*half), batch_size=7, shuffle=True) for half in (TRAIN, TEST)
    ],
    "Dataset": lambda: gs.Dataset("own", *TRAIN, *TEST, num_classes=3),
}


def trained(data: Any) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    result = gs.fit(model, data, batch_size=8, max_steps=6, device="cpu")
    return [*model.parameters(), torch.from_numpy(result.history["test_accuracy"])]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_the_same_network(form: str) -> None:
    for own, expected in zip(trained(FORMS[form]()), trained((*TRAIN, *TEST)), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((TensorDataset(TRAIN[0]), TEST), ValueError, r"data \(train\) has no labels"),
        ((TRAIN, TensorDataset(TEST[0][:0], TEST[1][:0])), ValueError, r"data \(test\) is empty"),
        (
            (TensorDataset(TRAIN[0], *TRAIN), TEST),
            ValueError,
            r"train_x and test_x must agree in x: tensors: got 0, 1 and one tensor",
        ),
        ((TRAIN, TEST, TEST), ValueError, "data must be a grokscope.Dataset.* got 3 tensors"),
    ],
)
def test_a_mistake_in_the_data_is_named(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gs.fit(nn.Linear(5, 3), data, max_steps=1)
