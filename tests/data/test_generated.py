"""Digits, XOR cluster data and modular arithmetic."""

from __future__ import annotations

import pytest
import torch

from grokscope.data import load
from grokscope.data.modular import unseen_in_either_order


def test_digits_train_on_the_first_and_test_on_all_the_rest() -> None:
    data = load("digits", train_size=300, dtype=torch.float64)
    assert (len(data.train_x), len(data.test_x)) == (300, 1497)
    x = torch.cat([data.train_x, data.test_x])
    assert x.min() == 0
    assert x.max() == 1
    assert torch.equal(x * 16, (x * 16).round())
    counts = data.train_y.bincount(minlength=10)
    assert counts.min() >= 28
    assert counts.max() <= 32
    default = load("digits")
    assert torch.equal(default.train_x, data.train_x.float())


def test_seeded_digits_are_the_same_digits() -> None:
    first, drawn = load("digits"), load("digits", subset="seeded", seed=1)
    assert not torch.equal(first.train_x, drawn.train_x)

    def rows(data):
        x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
        return sorted(map(tuple, torch.cat([x, y[:, None]], dim=1).tolist()))

    assert rows(first) == rows(drawn)


def test_digits_leave_something_to_test_on() -> None:
    with pytest.raises(ValueError, match="train_size must be an integer from 1 to 1796 for digits"):
        load("digits", train_size=1797)


def test_xor_is_what_its_definition_says() -> None:
    data = load("xor", train_size=50, test_size=30, dimension=17, noise=0.25, dtype=torch.float64)
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert set(x[:, :2].flatten().tolist()) == {-1.0, 1.0}
        assert set(x[:, 2:].flatten().tolist()) == {-0.25, 0.25}
        assert torch.equal(y, x[:, 0] * x[:, 1])
    assert data.num_classes is None
    assert data.train_x.shape == (50, 17)
    assert data.train_y.dtype == torch.float64
    labels = load("xor", train_size=50, test_size=30, dimension=17, targets="class")
    assert labels.num_classes == 2
    assert torch.equal(labels.train_y, (data.train_y > 0).long())


def test_xor_draws_signs_evenly_and_independently() -> None:
    x = load("xor", train_size=4000, test_size=1, dimension=12, noise=1.0).train_x
    correlation = x.T @ x / len(x)
    assert (correlation - torch.eye(12)).abs().max() < 5 / 4000**0.5
    assert x.mean(0).abs().max() < 5 / 4000**0.5


def test_xor_defaults_are_the_papers() -> None:
    data = load("xor")
    assert data.train_x.shape == data.test_x.shape == (400, 40_000)
    assert float(data.train_x[0, 5].abs()) == pytest.approx(0.05)


def test_xor_is_seeded_and_its_splits_do_not_depend_on_each_others_size() -> None:
    before = torch.get_rng_state()
    kw = {"dimension": 9}
    data = load("xor", train_size=20, test_size=10, seed=3, **kw)
    assert torch.equal(data.train_x, load("xor", train_size=20, test_size=5, seed=3, **kw).train_x)
    assert torch.equal(data.test_x, load("xor", train_size=7, test_size=10, seed=3, **kw).test_x)
    assert not torch.equal(data.train_x[:10], data.test_x)
    other = load("xor", train_size=20, test_size=10, seed=4, **kw)
    assert not torch.equal(data.train_x, other.train_x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dimension": 1}, "dimension must be at least 2 for xor: got 1"),
        ({"noise": -0.1}, "noise must be at least 0"),
        ({"noise": float("nan")}, "noise must be at least 0"),
        ({"train_size": 0}, "train_size must be at least 1"),
    ],
)
def test_xor_refuses_what_makes_no_sense(options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load("xor", **options)


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide", "add_squares"])
def test_modular_holds_every_pair_once_with_its_result(operation: str) -> None:
    p = 7
    data = load("modular", modulus=p, operation=operation, encoding="tokens", train_fraction=0.4)
    x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    pairs = {(a, b) for a in range(p) for b in range(p) if operation != "divide" or b}
    assert len(x) == len(pairs)
    assert {(a, b) for a, b in x.tolist()} == pairs
    for (a, b), result in zip(x.tolist(), y.tolist(), strict=True):
        expected = {
            "add": a + b,
            "subtract": a - b,
            "multiply": a * b,
            "divide": a * pow(b, p - 2, p),
            "add_squares": a**2 + b**2,
        }[operation]
        assert result == expected % p
    assert len(data.train_x) == round(0.4 * len(pairs))


def test_modular_encodings_agree() -> None:
    kw = {"modulus": 5, "operation": "subtract", "seed": 2}
    hot = load("modular", **kw, dtype=torch.float64)
    tokens = load("modular", **kw, encoding="tokens")
    assert hot.train_x.dtype == torch.float64
    assert torch.equal(hot.train_x.reshape(-1, 2, 5).argmax(2), tokens.train_x)
    assert torch.equal(hot.train_x.sum(1), torch.full((len(hot.train_x),), 2.0).double())
    with_equals = load("modular", **kw, encoding="tokens", equals=True)
    assert torch.equal(with_equals.test_x[:, :2], tokens.test_x)
    assert set(with_equals.test_x[:, 2].tolist()) == {5}


def test_modular_split_by_number_and_by_seed() -> None:
    data = load("modular", modulus=11, train_size=20, test_size=30, seed=0)
    assert (len(data.train_x), len(data.test_x)) == (20, 30)
    other = load("modular", modulus=11, train_size=20, seed=1)
    assert not torch.equal(data.train_x, other.train_x)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"modulus": 1}, "modulus must be at least 2"),
        ({"modulus": 6, "operation": "divide"}, "modulus must be prime for operation='divide'"),
        ({"train_fraction": 1.5}, "train_fraction must lie between 0 and 1"),
        ({"train_size": 113**2}, "train_size must be an integer from 1 to 12768"),
        ({"equals": True}, "pass encoding='tokens'"),
    ],
)
def test_modular_refuses_what_makes_no_sense(options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        load("modular", **options)


def test_pairs_unseen_in_either_order() -> None:
    data = load("modular", modulus=7, encoding="tokens", equals=True, train_fraction=0.4)
    known = {(a, b) for a, b, _ in data.train_x.tolist()}
    expected = [(b, a) not in known for a, b, _ in data.test_x.tolist()]
    assert unseen_in_either_order(data.train_x, data.test_x, 7).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert data.test_parts["unseen"].tolist() == expected
    assert load("modular", modulus=7, train_size=48).test_parts == {}
