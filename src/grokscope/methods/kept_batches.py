"""The batches that a step's gradients are of, as an attached method keeps them until the step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from grokscope.measures.batches import Batch, leaves


class KeptBatches:
    """Batches, each once, with how often their tensors had been written to when they came."""

    def __init__(self) -> None:
        self._kept: list[tuple[Batch, list[int]]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def join(self, found: Iterable[Batch]) -> None:
        """Add those that are not there: several outputs, or several losses, are of one batch."""
        for batch in found:
            if not any(batch is known for known, _ in self._kept):
                self._kept.append((batch, _versions(batch)))

    def unchanged(self) -> list[Batch]:
        """The batches.

        Raises:
            ValueError: if one was written to since it came, as a buffer is that holds one after the
                other: what it held is gone.
        """
        if any(_versions(batch) != versions for batch, versions in self._kept):
            raise ValueError(
                "a batch was written to after its backward pass and before the optimizer stepped, "
                "so the penalty of an attached method can no longer be taken on it: give each a "
                "tensor of its own, as x = buffer.clone()"
            )
        return [batch for batch, _ in self._kept]


def version(tensor: Tensor | None) -> int:
    """How often a tensor was written to, as PyTorch counts it; -1 where it does not."""
    return -1 if tensor is None or tensor.is_inference() else tensor._version


def _versions(batch: Batch) -> list[int]:
    return [version(leaf) for leaf in leaves(batch).values()]
