"""The loop against a hand-written one, bit for bit, and what it says of wrong input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import grokscope as gs
from grokscope.training.batches import BatchOrder

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
TEST_X, TEST_Y = X[:10] + 0.1, Y[:10]
DATA = (X, Y, TEST_X, TEST_Y)


def small(seed: int = 0, **settings: Any) -> nn.Module:
    return gs.MLP(6, [8, 5], 3, seed=seed, **settings)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def by_hand(loss: str, optimizer: type[torch.optim.Optimizer], steps: int, **settings: Any):
    model = small()
    trained = optimizer(model.parameters(), fused=True, **settings)
    order = BatchOrder(40, 12, [5], torch.device("cpu"))
    for step in range(1, steps + 1):
        (index,) = order.at(step)
        if loss == "mse":
            value = F.mse_loss(model(X[index]), F.one_hot(Y[index], 3).float())
        else:
            value = F.cross_entropy(model(X[index]), Y[index])
        trained.zero_grad()
        value.backward()
        trained.step()
    return model


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize(
    ("name", "optimizer", "settings"),
    [
        ("adamw", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        ("adam", torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
        ("adamw", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0, "eps": 0.1}),
        ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}),
    ],
)
def test_fit_equals_a_hand_written_loop_bit_for_bit(
    loss: str, name: str, optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    result = gs.fit(
        small(),
        DATA,
        optimizer=name,
        loss=loss,
        batch_size=12,
        max_steps=25,
        seed=5,
        device="cpu",
        **settings,
    )
    expected = by_hand(loss, optimizer, 25, **settings)
    assert torch.equal(parameters(result.model), parameters(expected))


def test_the_history_is_what_the_network_scores() -> None:
    model = small()
    result = gs.fit(model, DATA, max_steps=10, lr=0.01, device="cpu", evaluate=[4])
    assert result.history.steps.tolist() == [0, 4, 10]
    with torch.no_grad():
        assert result.history["test_loss"][-1] == float(F.cross_entropy(model(TEST_X), TEST_Y))
        right = (model(X).argmax(1) == Y).float().mean()
    assert result.history["train_accuracy"][-1] == pytest.approx(float(right))


def test_training_stops_at_its_target() -> None:
    target = gs.Target("train_accuracy", 0.6)
    result = gs.fit(small(), DATA, max_steps=2000, lr=0.01, stop_at=target, evaluate=5)
    assert result.stopped == "target"
    assert result.history["train_accuracy"][-1] >= 0.6 > result.history["train_accuracy"][-2]
    assert result.steps == result.history.steps[-1] < 2000


def test_a_training_that_diverges_ends_and_says_so() -> None:
    result = gs.fit(
        small(), DATA, optimizer="sgd", lr=1e12, loss="mse", max_steps=5000, device="cpu"
    )
    assert result.stopped == "diverged"
    assert result.steps < 5000


def test_learning_rate_courses() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    from grokscope.training.optimizers import learning_rate_schedule

    scheduler = learning_rate_schedule(optimizer, 8, warmup=4, decay="linear")
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate_schedule(optimizer, 8) is None


def test_float64_and_an_optimizer_of_ones_own() -> None:
    model = small()
    model.double()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    result = gs.fit(model, DATA, optimizer=optimizer, max_steps=3, dtype=torch.float64)
    assert next(result.model.parameters()).dtype == torch.float64


def test_a_scalar_output_with_binary_cross_entropy_learns() -> None:
    x = torch.randn(60, 4)
    y = (x[:, 0] > 0).long()
    model = gs.MLP(4, [16], None, seed=0)
    result = gs.fit(
        model, (x, y, x, y), loss="binary_cross_entropy", lr=0.05, max_steps=100, device="cpu"
    )
    assert result.history["train_accuracy"][-1] > 0.95


def test_the_network_is_left_in_training_mode_with_its_own_dropout() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    result = gs.fit(model, DATA, max_steps=20, lr=0.01, evaluate=1, device="cpu")
    first, second = (
        float(gs.fit(model, DATA, max_steps=1, lr=0.0).history["test_loss"][0]) for _ in range(2)
    )
    assert first == second, "scores must not depend on dropout"
    assert result.model.training


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'.*did you mean"),
        ({"loss": "msee"}, "unknown loss 'msee'.*did you mean 'mse'"),
        ({"decay": "cosin"}, "unknown decay 'cosin'.*did you mean 'cosine'"),
        ({"max_steps": 0}, "max_steps must be a positive integer: got 0"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"seed": -1, "batch_size": 8}, "seed must be 0 or positive: got -1"),
        (
            {"loss": lambda outputs, y: outputs.sum(1)},
            r"a tensor of one number.*got shape \(\d+,\)",
        ),
        ({"loss": lambda outputs, y: 1.0}, "loss must return a tensor of one number.*got float"),
        ({"device": "gpu"}, 'device must be "auto", "cpu", "cuda" or "mps"'),
        ({"evaluate": "lgo"}, "evaluate must be"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gs.fit(small(), DATA, **{"max_steps": 5, **arguments})


def test_a_target_is_an_accuracy() -> None:
    with pytest.raises(ValueError, match="unknown metric 'accuracy'; did you mean"):
        gs.fit(small(), DATA, stop_at=gs.Target("accuracy", 0.9))


def test_data_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"model does not run on x of shape \(1, 5\)"):
        gs.fit(small(), (X[:, :5], Y, TEST_X[:, :5], TEST_Y))
    with pytest.raises(ValueError, match="class 3 but the model has 3 outputs"):
        gs.fit(small(), (X, Y + 1, TEST_X, TEST_Y))
    with pytest.raises(ValueError, match="got 2 tensors"):
        gs.fit(small(), (X, Y))


def test_an_optimizer_of_another_network_is_refused() -> None:
    other = torch.optim.SGD(small().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer holds no parameter of the model"):
        gs.fit(small(), DATA, optimizer=other, max_steps=5)
    model = small()
    head = torch.optim.SGD([*model.parameters()][-2:], lr=0.1)
    gs.fit(model, DATA, optimizer=head, max_steps=1, device="cpu")


def test_a_network_without_trainable_parameters_is_refused() -> None:
    model = small().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        gs.fit(model, DATA)


def test_fit_writes_a_run_that_can_be_read(tmp_path: Any) -> None:
    result = gs.fit(small(), DATA, max_steps=20, device="cpu", out=tmp_path / "mine")
    run = gs.Run(tmp_path / "mine")
    assert run.status["state"] == "finished"
    stored = run.history("run", 0)
    assert stored["test_loss"].tolist() == result.history["test_loss"].tolist()
    model = small(seed=9)
    model.load_state_dict(run.checkpoint("run", 0)["model"])
    assert torch.equal(parameters(model), parameters(result.model))
