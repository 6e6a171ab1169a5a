"""Losses and accuracies against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.training.objective import Objective, loss_and_correct

OUTPUTS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
LABELS = torch.tensor([0, 1])


def test_cross_entropy() -> None:
    objective = Objective("cross_entropy")
    loss = objective(OUTPUTS, objective.targets(LABELS, OUTPUTS))
    by_hand = [
        math.log(math.exp(2) + 1 + math.exp(-1)) - 2,
        math.log(1 + math.exp(1) + math.exp(3)) - 1,
    ]
    assert float(loss) == pytest.approx(sum(by_hand) / 2)
    assert objective.correct(OUTPUTS, LABELS).tolist() == [True, False]


def test_squared_error_is_on_one_hot_targets_and_averages_over_all_elements() -> None:
    objective = Objective("mse")
    targets = objective.targets(LABELS, OUTPUTS)
    assert targets.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert float(objective(OUTPUTS, targets)) == pytest.approx((1 + 0 + 1 + 0 + 0 + 9) / 6)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_output(shape: tuple[int, ...]) -> None:
    score = torch.tensor([0.2, 0.7, -1.0, 3.0]).reshape(shape)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
    zero_one = torch.tensor([0, 1, 0, 0])
    squared, logistic = Objective("mse"), Objective("binary_cross_entropy")
    assert squared.correct(score, signs).tolist() == [True, False, True, True]
    assert squared.correct(score, zero_one).tolist() == [True, True, True, False]
    assert logistic.correct(score, zero_one).tolist() == [False, True, True, False]
    assert squared.targets(signs, score).shape == shape
    expected = torch.tensor([0.8, 1.7, 0.0, 2.0]).square().mean()
    assert torch.allclose(squared(score, squared.targets(signs, score)), expected)


def test_a_function_serves_as_a_loss() -> None:
    def hinge(outputs: Tensor, y: Tensor) -> Tensor:
        return (1 - outputs[torch.arange(len(y)), y]).clamp_min(0).mean()

    objective = Objective(hinge)
    assert float(objective(OUTPUTS, objective.targets(LABELS, OUTPUTS))) == 0.0


def test_scores_over_chunks_equal_scores_at_once() -> None:
    x = torch.randn(23, 3)
    y = torch.arange(23) % 3
    objective = Objective("cross_entropy")
    whole = loss_and_correct(lambda x: 2 * x, objective, x, y, y)
    parts = loss_and_correct(lambda x: 2 * x, objective, x, y, y, chunk_size=5)
    assert parts[0] == pytest.approx(whole[0])
    assert torch.equal(parts[1], whole[1])
    assert torch.equal(whole[1], x.argmax(1) == y)


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "said"),
    [
        ("cross_entropy", OUTPUTS[:, 0], LABELS, "one output for each class"),
        ("cross_entropy", OUTPUTS, LABELS.float(), "integer class labels"),
        ("mse", OUTPUTS, LABELS + 2, "class 3 but the model has 3 outputs; give it 4"),
    ],
)
def test_what_does_not_fit_is_named(loss: str, outputs: Tensor, labels: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Objective(loss).targets(labels, outputs)


def test_a_misspelt_loss_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        Objective("crossentropy")


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    smoothed = Objective("cross_entropy", 0.3)
    plain = torch.log_softmax(OUTPUTS, 1)
    targets = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    expected = -(targets * plain).sum(1).mean()
    assert torch.allclose(smoothed(OUTPUTS, smoothed.targets(LABELS, OUTPUTS)), expected)
    squared = Objective("mse", 0.3)
    assert torch.allclose(squared.targets(LABELS, OUTPUTS), targets)
    stable = Objective("stablemax", 0.3)
    found = stable(OUTPUTS, stable.targets(LABELS, OUTPUTS))
    assert torch.allclose(found, gs.stablemax_cross_entropy(OUTPUTS, targets))


def test_label_smoothing_where_it_means_nothing_is_refused() -> None:
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="label_smoothing must be at least 0"):
            Objective("cross_entropy", wrong)
    with pytest.raises(ValueError, match="label_smoothing is for cross_entropy"):
        Objective("binary_cross_entropy", 0.1)
    with pytest.raises(ValueError, match="label_smoothing needs one output for each class"):
        Objective("mse", 0.1).targets(LABELS, torch.zeros(2, 1))


def test_a_loss_in_float64_tells_small_losses_apart() -> None:
    outputs = torch.tensor([[40.0, 0.0, 3.0], [1.0, 50.0, 2.0]])
    plain, wide = Objective("cross_entropy"), Objective("cross_entropy", in_float64=True)
    assert float(plain(outputs, LABELS)) == 0
    expected = (math.exp(-40) + math.exp(-37) + math.exp(-49) + math.exp(-48)) / 2
    assert float(wide(outputs, LABELS)) == pytest.approx(expected, rel=1e-6)
    squared = Objective("mse", in_float64=True)
    assert squared(outputs, squared.targets(LABELS, outputs)).dtype == torch.float64
    with pytest.raises(ValueError, match=r"loss_in_float64 is for a loss by name: call outputs\.d"):
        Objective(lambda o, y: o.sum(), in_float64=True)
