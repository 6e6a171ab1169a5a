"""`fit` on a label for each token or pixel: the network that a hand-written loop trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import grokscope as gs

SETTINGS: dict[str, Any] = {
    "lr": 1e-2, "device": "cpu", "dtype": torch.float64, "progress": False, "max_steps": 6,
}  # fmt: skip
N, T, K = 12, 5, 7


class LanguageModel(nn.Module):
    """The next token from those before it; classes come last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(K, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, K)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


def segmenter() -> nn.Module:
    """A class for each pixel; classes come second."""
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, K, 1))


def perceptron() -> nn.Module:
    """A class for each of T positions, from one vector: a network that is trained in a stack."""
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, T * K), nn.Unflatten(1, (T, K)))


def problem(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(seed)
    if kind == "tokens":
        x = torch.randint(K, (N, T), generator=generator)
        y = x.roll(-1, 1)
        y[:, -1] = -100
        return LanguageModel(), x, y
    if kind == "pixels":
        y = torch.randint(K, (N, 4, 3), generator=generator)
        y[y == 3] = -100
        return segmenter(), torch.randn(N, 2, 4, 3, generator=generator), y
    y = torch.randint(K, (N, T), generator=generator)
    y[y > 4] = -100
    return perceptron(), torch.randn(N, 6, generator=generator), y


def loss_of_one(outputs: Tensor, label: Tensor, loss: str = "cross_entropy") -> Tensor:
    """The loss of the outputs (k,) at one position."""
    if loss == "cross_entropy":
        return -outputs.log_softmax(0)[label]
    target = torch.eye(K, dtype=outputs.dtype)[label]
    if loss == "mse":
        return (outputs - target).square().mean()
    return -(target * outputs.sigmoid().log() + (1 - target) * (-outputs).sigmoid().log()).mean()


def scores(model: nn.Module, x: Tensor, y: Tensor, loss: str = "cross_entropy") -> list[Tensor]:
    """Loss and accuracy of the labels that count, one at a time."""
    outputs = model(x)
    outputs = outputs if outputs.shape[:-1] == y.shape else outputs.movedim(1, -1)
    pairs = [
        (own, label)
        for own, label in zip(outputs.reshape(-1, K), y.flatten(), strict=True)
        if label != -100
    ]
    losses = [loss_of_one(*pair, loss) for pair in pairs]
    right = [(own.argmax() == label).double() for own, label in pairs]
    return [torch.stack(losses).mean(), torch.stack(right).mean()]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "binary_cross_entropy"])
@pytest.mark.parametrize("kind", ["tokens", "pixels", "positions"])
def test_training_is_that_of_a_hand_written_loop(kind: str, loss: str) -> None:
    model, x, y = problem(kind)
    result = gs.fit(
        model, (x, y, x[:7], y[:7]), batch_size=N, weight_decay=0.0, loss=loss, **SETTINGS
    )

    by_hand, x, y = problem(kind)
    by_hand.double()
    x = x.double() if x.is_floating_point() else x
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(6):
        optimizer.zero_grad()
        if loss == "cross_entropy":
            outputs = by_hand(x)
            outputs = outputs.movedim(-1, 1) if kind != "pixels" else outputs
            F.cross_entropy(outputs, y, ignore_index=-100).backward()
        else:
            scores(by_hand, x, y, loss)[0].backward()
        optimizer.step()
    for name, own in by_hand.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], own)
    last = {name: result.history[name][-1] for name in result.history.names}
    for split, few in (("train", slice(N)), ("test", slice(7))):
        expected = [float(of.detach()) for of in scores(by_hand, x[few], y[few], loss)]
        assert [last[f"{split}_loss"], last[f"{split}_accuracy"]] == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_seeds_in_a_stack_whose_batches_leave_out_different_numbers(loss: str) -> None:
    _, x, y = problem("positions")
    settings = SETTINGS | {"loss": loss, "batch_size": 5}
    alone = [
        gs.fit(problem("positions", seed)[0], (x, y, x, y), seed=seed, **settings)
        for seed in range(3)
    ]
    together = gs.fit_seeds(
        lambda seed: problem("positions", seed)[0], (x, y, x, y), range(3), vectorize=True,
        **settings,
    )  # fmt: skip
    for one, other in zip(alone, together, strict=True):
        for name, own in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], own)
        assert len(one.history["train_loss"]) > 1
        assert one.history["train_loss"] == pytest.approx(other.history["train_loss"])


@pytest.mark.parametrize("loss", ["stablemax", "cross_entropy", "mse"])
def test_methods_see_the_accuracy_of_what_counts(loss: str) -> None:
    model, x, y = problem("pixels")
    method, seen = gs.AdversarialTraining(0.1), list[float]()

    def note(row: dict[str, float], seconds: float) -> None:
        seen.append(method.state_dict()["accuracy"].item())

    gs.fit(model, (x, y, x, y), loss=loss, methods=[method], batch_size=N, **SETTINGS | {
        "max_steps": 1, "lr": 0.0, "weight_decay": 0.0, "on_evaluation": note,
    })  # fmt: skip
    assert seen == [0.0, pytest.approx(float(scores(model, x.double(), y)[1]))]
    own = gs.AdversarialTraining(0.1)
    own.saw(model(x.double()), y)
    assert own.state_dict()["accuracy"].item() == pytest.approx(
        float(scores(model, x.double(), y)[1])
    )


def test_smoothed_squared_error_of_positions() -> None:
    outputs, y = torch.randn(N, T, K, dtype=torch.float64), problem("tokens")[2]
    objective = gs.training.objective.Objective("mse", label_smoothing=0.3)
    counted = y != -100
    targets = 0.7 * torch.eye(K, dtype=torch.float64)[y[counted]] + 0.3 / K
    found = objective(outputs, objective.targets(y, outputs))
    torch.testing.assert_close(found, F.mse_loss(outputs[counted], targets))


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (torch.full((N, T), -100), r"train_y holds no label but -100: none counts"),
        (torch.full((N, T), -1), r"train_y must lie in 0\.\."),
        (torch.zeros(N, T - 1).long(), "cross_entropy needs one output for each class"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(y: Tensor, said: str) -> None:
    model, x, good = problem("positions")
    with pytest.raises(ValueError, match=said):
        gs.fit(model, (x, y, x, good[:, : y.shape[1]]), **SETTINGS)
