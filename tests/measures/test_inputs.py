"""The checks that every measure shares."""

from __future__ import annotations

import pytest
import torch

from grokscope.measures.inputs import check_batch, check_not_batch_dependent, check_outputs


def test_a_missing_batch_axis_is_named_with_its_fix() -> None:
    with pytest.raises(ValueError, match=r"x needs a batch axis: got shape \(784,\); pass x.unsq"):
        check_batch(torch.zeros(784))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="x1 is empty"):
        check_batch(torch.zeros(0, 3), "x1")


def test_the_first_bad_example_is_named() -> None:
    x = torch.zeros(4, 2, 3)
    x[2, 1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"x\[2\]"):
        check_batch(x)


def test_scalar_outputs_become_one_column() -> None:
    assert check_outputs(torch.zeros(5), 5).shape == (5, 1)
    with pytest.raises(ValueError, match="flatten or pick"):
        check_outputs(torch.zeros(5, 2, 3), 5)


def test_batch_norm_and_dropout_in_training_mode_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="BatchNorm1d in training mode at '1'"):
        check_not_batch_dependent(model)
    check_not_batch_dependent(model.eval())
    with pytest.raises(ValueError, match="chance"):
        check_not_batch_dependent(torch.nn.Dropout(0.5))
    check_not_batch_dependent(torch.nn.Dropout(0.0))
