"""Whether an example's outputs change with the company it is in.

A measure of single examples has no meaning where they do: batch normalization or dropout in
training mode, however wrapped, noise in a forward pass, a padding mask held by a closure, which a
part of the batch meets from its first row on, a branch on the size of the batch. So a few examples
go through the model a second time, among themselves and in another order, and their outputs must
be those that they had beside all others.

Cost: one forward pass of three examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.inputs import check_outputs
from grokscope.measures.view import Model, outputs_of

# How far outputs may differ by rounding, relative to the largest: batches of other sizes take
# other matrix kernels. TF32, which a CUDA device may use for float32, keeps ten bits.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
_ON_CUDA = 1e-2


def outputs_at(model: Model, x: Batch) -> Tensor:
    """The model's outputs (n, k)."""
    return check_outputs(outputs_of(model, x), batch_size(x))


def few(n: int, count: int = 3) -> list[int]:
    """``count`` examples of ``n``, the last first, each in another place than in the batch.

    Of fewer examples some come twice: even one has company then.

    Example:
        >>> few(10), few(2), few(1)
        ([9, 5, 0], [1, 0, 1], [0, 0, 0])
    """
    if n < count:
        return [(n - 1 - i) % n for i in range(count)]
    step = (n - 1) / (count - 1)
    return [round((count - 1 - i) * step + 1e-9) for i in range(count)]


class Company:
    """The outputs of a few examples among themselves, for comparison with those of the batch.

    Args:
        model: maps a batch to (n, k) or (n,).
        x: the batch.
        index: the examples; three of them if None.
        name: what to call the batch in a message.
        alone: their outputs, where they are known.
    """

    def __init__(
        self,
        model: Model,
        x: Batch,
        index: Sequence[int] | None = None,
        name: str = "x",
        alone: Tensor | None = None,
    ) -> None:
        self.name = name
        self.index = list(few(batch_size(x)) if index is None else index)
        if alone is None:
            with torch.no_grad():
                alone = _alone(model, x, self.index, name)
        self.alone = alone.detach()

    def check(self, outputs: Tensor, start: int = 0) -> None:
        """Raise unless ``outputs``, of the examples from ``start`` on, are what they were alone.

        Raises:
            ValueError: if one depends on the others, naming the first example whose outputs differ.
        """
        places = [p for p, i in enumerate(self.index) if start <= i < start + len(outputs)]
        if places:
            self.compare(outputs.detach()[[self.index[p] - start for p in places]], places)

    def compare(self, outputs: Tensor, places: Sequence[int]) -> None:
        """Raise unless ``outputs`` are those of the examples at these places of ``index``."""
        alone = self.alone[list(places)]
        difference = (outputs.detach() - alone).abs().amax(dim=1)
        allowed = tolerance(outputs) * self.alone.abs().amax()
        if bool((difference > allowed).any()):
            first = int((difference > allowed).nonzero()[0])
            self._refuse(self.index[places[first]], float(difference[first]))

    def _refuse(self, example: int, difference: float) -> None:
        raise ValueError(
            f"model's output for {self.name}[{example}] depends on the rest of its batch or on "
            f"chance: it changes by {difference:.2g} with the examples beside it; put what belongs "
            "to an example, such as a padding mask, into the batch, take noise out of the forward "
            "pass, and switch BatchNorm and dropout to evaluation mode"
        )


def tolerance(outputs: Tensor) -> float:
    """The difference, relative to the largest output, that rounding may explain."""
    allowed = _TOLERANCE.get(outputs.dtype, 16 * torch.finfo(outputs.dtype).eps)
    return max(allowed, _ON_CUDA) if outputs.is_cuda and outputs.dtype != torch.float64 else allowed


def _alone(model: Model, x: Batch, index: list[int], name: str) -> Tensor:
    try:
        return outputs_at(model, rows(x, index))
    except ValueError as error:
        try:
            outputs_at(model, x)
        except ValueError:
            raise error from None  # the model does not run on the batch at all
        raise ValueError(
            f"model runs on {name} as a whole and not on {len(index)} of its examples: an "
            "example's output then depends on the rest of its batch; put what belongs to an "
            f"example, such as a padding mask, into the batch ({error})"
        ) from error
