"""Where a monitor keeps tensors, which are too large for a row of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Archive(Protocol):
    """Tensors under names; a ``Trial`` of a run directory is one."""

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name, in place of what was there."""

    def arrays(self, name: str) -> dict[str, Tensor] | None:
        """The tensors under a name, on the CPU; None where there are none."""

    def drop_arrays(self, name: str) -> None:
        """Remove the tensors under a name, if there are any."""


class MemoryArchive:
    """Tensors kept in memory, for a monitor in a loop without a run directory.

    Attributes:
        kept: the tensors by the name they were saved under, and their own.
    """

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep a copy of tensors under a name, in place of what was there."""
        self.kept[name] = {
            key: value.detach().cpu().contiguous().clone() for key, value in arrays.items()
        }

    def arrays(self, name: str) -> dict[str, Tensor] | None:
        """The tensors under a name; None where there are none."""
        return self.kept.get(name)

    def drop_arrays(self, name: str) -> None:
        """Remove the tensors under a name, if there are any."""
        self.kept.pop(name, None)
