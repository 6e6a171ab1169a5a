"""Which examples each step sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


class BatchOrder:
    """Mini-batches drawn without replacement, a new order each epoch; a pure function of the step.

    The order of an epoch depends on the seed and the number of the epoch alone. So a resumed run
    needs no state to go on in the same order, and a run is the same whatever else draws numbers.
    The last batch of an epoch is smaller where the batch size does not divide the data.

    Args:
        num_examples: size of the training set.
        batch_size: examples in a batch of one network; None for all of them, in their own order.
        seeds: the seed of each network.
        device: where the indices are used.
        shuffle: whether each epoch has an order of its own; else that of the data.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int | None,
        seeds: Sequence[int],
        device: torch.device,
        shuffle: bool = True,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer or None: got {batch_size}")
        self.num_examples = num_examples
        self.batch_size = min(batch_size or num_examples, num_examples)
        self.full = batch_size is None or batch_size >= num_examples
        self.steps_per_epoch = -(-num_examples // self.batch_size)
        self.seeds = list(seeds)
        self._device = device
        self._shuffle = shuffle
        self._orders: dict[int, Int64[Tensor, "s n"]] = {}
        self._epoch = -1
        self._batches: tuple[Int64[Tensor, "s b"], ...] = ()  # of that epoch

    def at(self, step: int) -> Int64[Tensor, "s b"] | None:
        """Indices of each network's examples at a step, counted from 1; None for all of them."""
        if self.full:
            return None
        epoch, batch = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._order(epoch).split(self.batch_size, -1)
        return self._batches[batch]

    def during(self, first: int, count: int) -> Int64[Tensor, "s b"]:
        """The indices of so many steps from ``first`` on, those of one behind those of another."""
        begin, begins, _ = self._place(first)
        end, _, ends = self._place(first + count - 1)
        if begin == end:
            return self._order(begin)[:, begins:ends]
        whole = [self._order(epoch) for epoch in range(begin, end + 1)]
        return torch.cat([whole[0][:, begins:], *whole[1:-1], whole[-1][:, :ends]], -1)

    def _place(self, step: int) -> tuple[int, int, int]:
        """The epoch of a step, and from where to where in its order the step's batch lies."""
        epoch, batch = divmod(step - 1, self.steps_per_epoch)
        start = batch * self.batch_size
        return epoch, start, min(start + self.batch_size, self.num_examples)

    def _order(self, epoch: int) -> Int64[Tensor, "s n"]:
        if epoch not in self._orders:
            orders = torch.stack(
                [
                    _permutation(self.num_examples, seed, epoch)
                    if self._shuffle
                    else torch.arange(self.num_examples)
                    for seed in self.seeds
                ]
            )
            if self._device.type == "cuda":  # pinned, so that the copy waits for no step before it
                orders = orders.pin_memory()
            # the epoch before is still wanted where steps of two are taken at a time
            self._orders = {old: kept for old, kept in self._orders.items() if old == epoch - 1}
            self._orders[epoch] = orders.to(self._device, non_blocking=True)
        return self._orders[epoch]

    def size_at(self, step: int) -> int:
        """How many examples the batch of a step has."""
        last = self.num_examples - (self.steps_per_epoch - 1) * self.batch_size
        return last if step % self.steps_per_epoch == 0 else self.batch_size

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the seeds of these rows only."""
        self.seeds = [self.seeds[row] for row in rows]
        self._orders, self._epoch = {}, -1


def _permutation(num_examples: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    # torch's generator takes 32 bits of a seed: mix the two numbers into as many.
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(mixed))
    return torch.randperm(num_examples, generator=generator)
