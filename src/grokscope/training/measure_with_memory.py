"""What every measure of a training is given, and measures with a memory."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from grokscope.measures.batches import Batch, batch_size, rows
from grokscope.measures.geometry import JacobianGeometry, jacobian_geometry
from grokscope.measures.sampled_geometry import PROJECTIONS, sampled_geometry, sampled_points
from grokscope.runs import History
from grokscope.shown import called_with, settings_of, shown
from grokscope.training.archive import Archive


class Probe:
    """A network at probe points; what several measures share is computed once.

    Args:
        model: the network, in eval mode.
        x: probe inputs (n, ...).
        chunk_size: how many points are measured at once; None for all.
        y: their labels (n,).
        test: inputs and labels of test points.
        exact: take all rows of the Jacobian at all points, even where that takes many backward
            passes.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Batch,
        chunk_size: int | None = None,
        y: Tensor | None = None,
        test: tuple[Batch, Tensor] | None = None,
        exact: bool = True,
    ) -> None:
        self.model = model
        self.x = x
        self.chunk_size = chunk_size
        self.y = y
        self.test = test
        self.exact = exact
        self.sampled: dict[str, float] = {}

    @cached_property
    def geometry(self) -> JacobianGeometry:
        """Jacobian and centroid values, from one pass.

        Where it has all rows of the Jacobian at some points only, ``sampled`` says so afterwards:
        ``jacobian_points``, how many, and ``jacobian_projections``, the random directions from
        which the norm at the others is estimated.
        """
        n = batch_size(self.x)
        num_points = n if self.exact else sampled_points(self.model, self.x)
        if num_points == n:
            return jacobian_geometry(self.model, self.x, chunk_size=self.chunk_size)
        self.sampled = {"jacobian_points": num_points, "jacobian_projections": PROJECTIONS}
        return sampled_geometry(self.model, self.x, num_points, chunk_size=self.chunk_size)

    @cached_property
    def point(self) -> JacobianGeometry:
        """The same of the first point alone."""
        return jacobian_geometry(self.model, rows(self.x, slice(0, 1)))


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
