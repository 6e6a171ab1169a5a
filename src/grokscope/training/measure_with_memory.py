"""Measures with a memory."""

from __future__ import annotations

from typing import Any, ClassVar

from grokscope.methods.base import called_with, settings_of
from grokscope.runs import History
from grokscope.shown import shown
from grokscope.training.archive import Archive
from grokscope.training.measurements import Probe


@shown()
class MeasureWithMemory:
    """A measure that looks back at earlier steps, keeps tensors or gives several values.

    What it needs of an earlier step it reads from the archive and not from memory, so that a
    training that was stopped goes on to the same numbers.
    """

    name: ClassVar[str]

    def __repr__(self) -> str:
        return called_with(self)

    def _shown(self) -> dict[str, Any]:
        return settings_of(self)

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        """The values of a step, by the columns that they go to."""
        raise NotImplementedError

    def restore(self, history: History) -> None:
        """Go on after the rows of an earlier part of the same training."""

    def state_dict(self) -> dict[str, Any]:
        """What cannot be restored from the history and the archive: tensors, numbers, strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def finish(self, archive: Archive) -> None:
        """Put into the archive what needs all steps."""
