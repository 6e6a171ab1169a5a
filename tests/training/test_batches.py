"""Batches are without replacement and a function of the step alone."""

from __future__ import annotations

import pytest
import torch

from grokscope.training.batches import BatchOrder

CPU = torch.device("cpu")


def test_an_epoch_sees_every_example_once_with_a_smaller_last_batch() -> None:
    order = BatchOrder(10, 4, seeds=[3], device=CPU)
    batches = [order.at(step)[0] for step in (1, 2, 3)]
    assert [order.size_at(step) for step in (1, 2, 3, 4)] == [4, 4, 2, 4]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_epochs_and_seeds_differ() -> None:
    order = BatchOrder(50, 50 - 1, seeds=[0], device=CPU)
    first, second = order.at(1).clone(), order.at(3)
    assert not torch.equal(first, second)
    assert not torch.equal(first, BatchOrder(50, 49, seeds=[1], device=CPU).at(1))


def test_a_fresh_order_goes_on_where_an_old_one_was() -> None:
    old = BatchOrder(37, 5, seeds=[2], device=CPU)
    batches = {step: old.at(step).clone() for step in range(1, 100)}
    assert torch.equal(BatchOrder(37, 5, seeds=[2], device=CPU).at(60), batches[60])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    BatchOrder(37, 5, seeds=[2], device=CPU).at(1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [None, 10, 11])
def test_a_batch_of_everything_needs_no_indices(batch_size: int | None) -> None:
    assert BatchOrder(10, batch_size, seeds=[0], device=CPU).at(1) is None


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be a positive integer or None: got 0"):
        BatchOrder(10, 0, seeds=[0], device=CPU)


def test_batches_of_several_networks_are_those_of_each_seed() -> None:
    seeds = (3, 0, 8)
    together = BatchOrder(40, 12, seeds, CPU)
    own = [BatchOrder(40, 12, [seed], CPU) for seed in seeds]
    for step in (1, 2, 4, 5, 9, 1, 30):
        rows = together.at(step)
        assert torch.equal(rows, torch.cat([order.at(step) for order in own]))
    assert len({tuple(row) for row in rows.tolist()}) == len(seeds)
    together.keep([2, 0])
    assert torch.equal(together.at(30), rows[[2, 0]])
    assert BatchOrder(40, None, seeds, CPU).at(3) is None


def test_without_shuffling_batches_are_those_of_the_data_in_every_epoch() -> None:
    order = BatchOrder(10, 4, [3, 8], CPU, shuffle=False)
    for step, expected in ((1, range(4)), (2, range(4, 8)), (3, range(8, 10)), (7, range(4))):
        assert order.at(step).tolist() == [list(expected)] * 2


@pytest.mark.parametrize("first", [1, 3, 4, 6])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_indices_of_several_steps_are_those_of_each_in_a_row(first: int, count: int) -> None:
    order, again = (BatchOrder(10, 4, seeds=[3, 7], device=CPU) for _ in range(2))
    one_by_one = [again.at(step) for step in range(first, first + count)]
    assert torch.equal(order.during(first, count), torch.cat(one_by_one, -1))
