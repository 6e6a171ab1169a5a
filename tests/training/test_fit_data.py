"""What `fit` takes as data: all forms of the same examples train the same network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

import grokscope as gs
from grokscope.report import write_report
from grokscope.training.examples import data_of, examples

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


CHOSEN = range(5, 12)
PAIRS = TensorDataset(*TRAIN)
# loaders that give a part of their data set, or some of it twice, and how many examples that is
PARTS: dict[str, tuple[DataLoader[Any], int]] = {
    "sampler": (DataLoader(PAIRS, 4, sampler=SubsetRandomSampler(CHOSEN)), 7),
    "batches": (DataLoader(PAIRS, batch_sampler=BatchSampler(CHOSEN, 3, drop_last=False)), 7),
    "batches of lists": (DataLoader(PAIRS, batch_sampler=[[5, 6], [7, 8, 9], [10, 11]]), 7),
    "a few at random": (DataLoader(PAIRS, 4, sampler=RandomSampler(PAIRS, num_samples=9)), 9),
    "with replacement": (DataLoader(PAIRS, 4, sampler=RandomSampler(PAIRS, True, 40)), 40),
}


@pytest.mark.parametrize("case", PARTS)
def test_of_a_loader_its_own_examples_are_taken(case: str) -> None:
    loader, count = PARTS[case]
    found = data_of((loader, TensorDataset(*TEST)))
    assert len(found.train_y) == count
    x, _ = examples("probe", loader, 1000)
    assert len(x) == count
    if count == len(CHOSEN):
        own = {tuple(row) for row in TRAIN[0][CHOSEN.start : CHOSEN.stop].tolist()}
        assert {tuple(row) for row in found.train_x.tolist()} == own


def trained(data: Any) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    result = gs.fit(model, data, batch_size=8, max_steps=6, device="cpu")
    accuracies = torch.from_numpy(result.history["test_accuracy"])
    assert len(accuracies) == len(result.history.steps) > 1
    return [*model.parameters(), accuracies]


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
        ((TRAIN[0], TensorDataset(*TEST)), ValueError, "data must be a grokscope.* got 2 tensors"),
        ((TensorDataset(*TRAIN), TEST[0]), ValueError, r"data \(test\) has no labels"),
        ((TRAIN, TEST, TEST), ValueError, "data must be a grokscope.Dataset.* got 3 tensors"),
    ],
)
def test_a_mistake_in_the_data_is_named(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gs.fit(nn.Linear(5, 3), data, max_steps=1)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        ("mse", 3, torch.randn(24, 3, generator=generator)),
        ("mse", 1, torch.randn(24, generator=generator)),
        ("binary_cross_entropy", 3, (torch.rand(24, 3, generator=generator) < 0.5).float()),
        (lambda out, y: (out - y).abs().mean(), 3, torch.randn(24, 3, generator=generator)),
    ],
    ids=["several numbers", "one number", "several labels", "a loss of one's own"],
)
def test_targets_that_are_no_classes_have_losses_and_no_accuracy(
    loss: Any, outputs: int, targets: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, data = nn.Linear(5, outputs), (TRAIN[0], targets, TRAIN[0][:12], targets[:12])
    result = gs.fit(model, data, loss=loss, lr=0.01, max_steps=20, device="cpu", out=tmp_path)
    assert set(result.history.rows[-1]) == {"step", "train_loss", "test_loss"}
    assert result.history["train_loss"][-1] < result.history["train_loss"][0]
    with torch.no_grad():
        answers = model(TRAIN[0])
    expected = {
        "mse": lambda: ((answers - targets.view_as(answers)) ** 2).mean(),
        "binary_cross_entropy": lambda: nn.BCEWithLogitsLoss()(answers, targets),
    }.get(loss, lambda: (answers - targets).abs().mean())()
    assert result.history["train_loss"][-1] == pytest.approx(float(expected), rel=1e-5)
    assert write_report([tmp_path], tmp_path / "page.html").stat().st_size > 1000


def test_seeds_of_a_regression_are_trained_as_one() -> None:
    y = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    losses = [
        [
            result.history["test_loss"][-1]
            for result in gs.fit_seeds(
                lambda seed: gs.MLP(5, [4], 3, seed=seed).double(),
                (TRAIN[0], y, TRAIN[0], y),
                [0, 1],
                loss="mse",
                batch_size=8,
                max_steps=9,
                vectorize=vectorize,
                device="cpu",
            )
        ]
        for vectorize in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_regression_has_no_accuracy_to_stop_at() -> None:
    y = torch.randn(24)
    stop = gs.Target("test_accuracy", 0.9)
    with pytest.raises(ValueError, match="stop_at=Target looks at accuracies"):
        gs.fit(nn.Linear(5, 1), (TRAIN[0], y, TRAIN[0], y), loss="mse", stop_at=stop)
