"""Whether an example's outputs change with the company it is in.

A measure of single examples has no meaning where they do: batch normalization or dropout in
training mode, however wrapped, noise in a forward pass, a padding mask held by a closure, which a
part of the batch meets from its first row on, a branch on the size of the batch. So a few examples
go through the model a second time, among themselves and in another order, and their outputs must
be those that they had beside all others.

Cost: one forward pass of three examples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

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

    Of fewer examples some come twice.

    Example:
        >>> few(10), few(2), few(1), few(10, 1)
        ([9, 5, 0], [1, 0, 1], [0, 0, 0], [9])
    """
    if n < count or count == 1:
        return [(n - 1 - i) % n for i in range(count)]
    step = (n - 1) / (count - 1)
    return [round((count - 1 - i) * step + 1e-9) for i in range(count)]


def another_count(count: int, chunk_size: int | None = None) -> int:
    """How many examples to run besides ``count`` to see which axes follow the batch; 3 at most.

    It is ``count`` where there is no other number up to ``chunk_size``.

    Example:
        >>> another_count(8), another_count(3), another_count(2), another_count(2, 2)
        (3, 2, 3, 1)
    """
    fitting = [other for other in (3, 2, 1) if other != count and other <= (chunk_size or 3)]
    return fitting[0] if fitting else count


class Company:
    """The outputs of a few examples among themselves, for comparison with those of the batch.

    Args:
        model: maps a batch to (n, k) or (n,).
        x: the batch.
        index: the examples; by default three, or as many as the batch or a part of it has.
        name: what to call the batch in a message.
        alone: their outputs, where they are known.
        chunk_size: how many examples the model may see at once.
    """

    def __init__(
        self,
        model: Model,
        x: Batch,
        index: Sequence[int] | None = None,
        name: str = "x",
        alone: Tensor | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.name = name
        parameters = model.parameters() if isinstance(model, nn.Module) else ()
        self._precisions = {p.dtype for p in parameters if p.is_floating_point()}
        n = batch_size(x)
        self.index = few(n, min(3, n, chunk_size or n)) if index is None else list(index)
        self._alone: Tensor | ValueError
        try:
            with torch.no_grad():
                self._alone = outputs_at(model, rows(x, self.index)) if alone is None else alone
        except ValueError as error:
            # kept, so that what is wrong with the batch as a whole is said first
            self._alone = error

    @property
    def alone(self) -> Tensor:
        """The outputs (m, k) of the examples at ``index`` without the others."""
        if isinstance(self._alone, ValueError):
            raise ValueError(
                f"model runs on {self.name} as a whole and not on {len(self.index)} of its "
                "examples: an example's output then depends on the rest of its batch; put what "
                f"belongs to an example, such as a padding mask, into the batch ({self._alone})"
            ) from self._alone
        return self._alone

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
        alone = self.alone.detach()[list(places)]
        difference = (outputs.detach() - alone).abs().amax(dim=1)
        allowed = tolerance(self.alone, self._precisions) * self.alone.detach().abs().amax()
        if bool((difference > allowed).any()):
            first = int((difference > allowed).nonzero()[0])
            refuse_company(self.name, self.index[places[first]], float(difference[first]))


def refuse_company(name: str, example: int, difference: float, what: str = "output") -> NoReturn:
    """Raise: what the model computes for an example changes with the others of its batch."""
    raise ValueError(
        f"model's {what} for {name}[{example}] depends on the rest of its batch or on chance: it "
        f"changes by {difference:.2g} with the examples beside it; put what belongs to an example, "
        "such as a padding mask, into the batch, take noise out of the forward pass, and switch "
        "BatchNorm and dropout to evaluation mode"
    )


def tolerance(outputs: Tensor, precisions: Collection[torch.dtype] = ()) -> float:
    """The difference, relative to the largest output, that rounding may explain.

    ``precisions`` are those of the parameters: what is rounded on the way stays so, also where the
    outputs are cast up at the end.
    """
    dtypes = {outputs.dtype, *precisions}
    allowed = max(_TOLERANCE.get(dtype, 16 * torch.finfo(dtype).eps) for dtype in dtypes)
    return max(allowed, _ON_CUDA) if outputs.is_cuda and outputs.dtype != torch.float64 else allowed
