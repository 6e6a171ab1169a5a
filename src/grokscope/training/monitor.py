"""A monitor that watches the geometry of a network while somebody's loop trains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.measures.batches import (
    Batch,
    batch_size,
    leaf_at,
    map_leaves,
    on_device,
    rows,
    wrt_key,
)
from grokscope.measures.guard import undisturbed
from grokscope.measures.view import continuous, outputs_of, wrt_of
from grokscope.runs import History
from grokscope.spelling import unknown_name
from grokscope.training.archive import Archive, MemoryArchive
from grokscope.training.evaluation import aligned
from grokscope.training.layer_geometry import LayerGeometry
from grokscope.training.measure_with_memory import MeasureWithMemory
from grokscope.training.measurements import MEASUREMENTS, Probe, summary
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.ntk_distance import NTKDistance
from grokscope.training.objective import Objective, loss_and_accuracy
from grokscope.training.phase import Phase, phase
from grokscope.training.robust_accuracy import RobustAccuracy
from grokscope.training.schedule import Schedule

Measure = Callable[[nn.Module, Any, Tensor], "Tensor | float"]
WITH_MEMORY: dict[str, type[MeasureWithMemory]] = {
    LayerGeometry.name: LayerGeometry,
    NoiseAccuracy.name: NoiseAccuracy,
    NTKDistance.name: NTKDistance,
    RobustAccuracy.name: RobustAccuracy,
}
MEASURES = (*MEASUREMENTS, *WITH_MEMORY)

DEFAULT_MEASURES = (
    "jacobian_norm",
    "jacobian_alignment",
    "row_alignment",
    "jacobian_pc1",
    "centroid_alignment",
    "centroid_norm",
    "centroid_inner_product",
    "weight_norm",
)


class Monitor:
    """Measures a network at scheduled steps, without disturbing its training.

    Call ``step(i)`` at every step of any loop: it does nothing but compare two integers until
    the schedule says so. While it measures, the network is in eval mode; mode, gradients and the
    state of the random generators are put back as they were.

    Args:
        model: the network.
        probe: a batch of inputs and labels (n,), some 256 training points; inputs are a tensor
            (n, ...), or a tuple, list or dictionary of tensors (see `View`).
        measures: names (see ``MEASURES``), functions ``(model, x, y) -> float or (n,)``,
            recorded under the function's name, or a measure with a memory such as
            ``NTKDistance(128)``.
        schedule: "log" (12 steps per decade), every so many steps, a list of steps, or a
            ``Schedule``.
        test: inputs and labels of a test set, for the test accuracy that ``phase`` looks at.
        loss: "cross_entropy", "mse", "binary_cross_entropy" or a function, for the accuracies.
        pictures: how many probe points have their centroids kept at each measured step, in
            ``archive`` as ``step-00000100``.
        chunk_size: how many probe points are measured at once; None for all.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.MLP(5, [8], 3, seed=0)
        >>> monitor = gs.Monitor(model, probe=(torch.randn(16, 5), torch.arange(16) % 3))
        >>> for i in range(11):  # a training loop
        ...     _ = monitor.step(i)
        >>> monitor.history["centroid_alignment"].shape == monitor.history.steps.shape
        True
    """

    def __init__(
        self,
        model: nn.Module,
        probe: tuple[Batch, Tensor],
        measures: Sequence[str | Measure | MeasureWithMemory] = DEFAULT_MEASURES,
        schedule: str | int | Sequence[int] | Schedule = "log",
        *,
        test: tuple[Batch, Tensor] | None = None,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        pictures: int = 0,
        chunk_size: int | None = None,
    ) -> None:
        self.model = model
        self.schedule = Schedule.of(schedule)
        self.history = History()
        self.archive: Archive = MemoryArchive()
        self.probe = _pair("probe", probe)
        self.test = None if test is None else _pair("test", test)
        self._objective = Objective(loss)
        self._num_pictures = min(pictures, len(self.probe[1]))
        self._image_shape: tuple[int, ...] | None = None
        self._chunk_size = chunk_size
        self._measures = _resolve(measures)
        self._next: int | None = 0

    @property
    def due(self) -> int | None:
        """The next step at which the monitor measures; None when its schedule has run out."""
        return self._next

    def step(self, step: int, *, always: bool = False, **figures: float) -> dict[str, Any] | None:
        """Measure if ``step`` is due, and return the new row; otherwise return None at once.

        Args:
            step: number of steps trained so far; 0 is the network before training.
            always: measure whether due or not, as for a last step.
            figures: figures of your own, such as ``train_accuracy`` and ``test_accuracy``; they
                join the history even where the step is not due.
        """
        due = self._next is not None and step >= self._next
        if not due and not always:
            if figures:
                self.history.append({"step": step, **figures})
            return None
        self._next = self.schedule.after(step)
        # The caller's own figures win: they may be of all test points, ours of a few.
        row = {"step": step, **figures, **self.measure(step), **figures}
        self.history.append(row)
        return row

    def measure(self, step: int) -> dict[str, float]:
        """The figures of the network as it is now, whatever the schedule says."""
        with undisturbed(self.model, training=False):
            return self._measured(step)

    def finish(self) -> None:
        """Compute what needs all steps, as ``NTKDistance`` does; ``fit`` calls it at the end."""
        for measure in self._with_memory():
            measure.finish(self.archive)

    def phase(self) -> Phase:
        """The phase that training is in, and the figures that tell it.

        Raises:
            ValueError: if nothing was measured yet.
        """
        return phase(self.history)

    def keep_in(self, archive: Archive, image_shape: tuple[int, ...] | None = None) -> None:
        """Keep tensors in ``archive`` from now on; pictures in the shape of an image.

        Args:
            archive: such as the ``Trial`` of a run directory; in memory by default.
            image_shape: (channels, height, width) of an input that was flattened.
        """
        self.archive, self._image_shape = archive, image_shape
        if self._num_pictures:
            few = slice(0, self._num_pictures)
            x = continuous(self.model, rows(self.probe[0], few))
            leaf = leaf_at(x, wrt_key(x, wrt_of(self.model)))
            archive.save_arrays("probe", {"x": self._as_images(leaf), "y": self.probe[1][few]})

    def restore(self, history: History) -> None:
        """Go on after the rows of an earlier part of the same training."""
        self.history = history
        for measure in self._with_memory():
            measure.restore(history)
        if len(history):
            self._next = self.schedule.after(int(history.steps[-1]))

    def _measured(self, step: int) -> dict[str, float]:
        device = next((p.device for p in self.model.parameters()), self.probe[1].device)
        x, y = on_device(self.probe[0], device), self.probe[1].to(device)
        test = None
        if self.test is not None:
            test = on_device(self.test[0], device), self.test[1].to(device)
        probe = Probe(self.model, x, self._chunk_size, y, test)
        row = {f"probe_{name}": value for name, value in self._scores(x, y).items()}
        if test is not None:
            scores = self._scores(*test)
            row |= {f"test_{name}": value for name, value in scores.items()}
        for name, measure in self._measures.items():
            if isinstance(measure, MeasureWithMemory):
                row |= measure.measure(probe, step, self.archive)
            elif isinstance(measure, str):
                row |= summary(name, MEASUREMENTS[name](probe))
            else:
                row |= summary(name, measure(self.model, x, y))
        if self._num_pictures:
            centroids = self._as_images(probe.geometry.centroids[: self._num_pictures])
            self.archive.save_arrays(f"step-{step:08d}", {"centroids": centroids})
        return row

    def _with_memory(self) -> list[MeasureWithMemory]:
        return [
            measure for measure in self._measures.values() if isinstance(measure, MeasureWithMemory)
        ]

    def _as_images(self, x: Tensor) -> Tensor:
        return x if self._image_shape is None else x.reshape(len(x), *self._image_shape)

    def _scores(self, x: Batch, y: Tensor) -> dict[str, float]:
        with torch.no_grad():
            targets = self._objective.targets(y, outputs_of(self.model, rows(x, slice(0, 1))))
        loss, accuracy = loss_and_accuracy(self.model, self._objective, x, targets, y)
        return {"loss": loss, "accuracy": accuracy}


def _pair(name: str, pair: tuple[Batch, Tensor]) -> tuple[Batch, Tensor]:
    x, y = pair
    n = batch_size(x, name)
    if n == 0:
        raise ValueError(f"{name} is empty: give it at least one example")
    if n != len(y):
        raise ValueError(f"{name} holds {n} inputs but {len(y)} labels; give one for each")
    return map_leaves(lambda leaf: aligned(leaf.detach()), x), y.detach()


def _resolve(
    measures: Sequence[str | Measure | MeasureWithMemory],
) -> dict[str, str | Measure | MeasureWithMemory]:
    resolved: dict[str, str | Measure | MeasureWithMemory] = {}
    for measure in measures:
        if isinstance(measure, MeasureWithMemory):
            name = measure.name
        elif not isinstance(measure, str):
            name = getattr(measure, "__name__", repr(measure))
        elif measure in MEASURES:
            name, measure = measure, WITH_MEMORY[measure]() if measure in WITH_MEMORY else measure
        else:
            raise ValueError(
                f"{unknown_name('measure', measure, MEASURES)}; a function "
                "(model, x, y) -> float or (n,) serves as well"
            )
        if name in resolved:
            raise ValueError(f"measures holds {name!r} twice; give each a name of its own")
        resolved[name] = measure
    return resolved
