"""How far the empirical neural tangent kernel moves while a network is trained.

``S(t, t') = 1 - <K_t, K_t'> / (|K_t| |K_t'|)`` with the Frobenius inner product of the kernels of
one batch at two steps (Fort et al. 2020; Zheng et al. 2024, Eq. 1-2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, batch_size, leaves, rows
from grokscope.measures.inputs import check_chunk_size
from grokscope.measures.kernels import kernel_distance, kernel_distance_matrix
from grokscope.measures.ntk.empirical import Reduction, empirical_ntk
from grokscope.measures.view import outputs_of
from grokscope.runs import History
from grokscope.training.archive import Archive
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe

_LARGE = 1_000_000  # entries from which on a kernel is kept in half precision


class NTKDistance(MeasureWithMemory):
    """A measure with a memory: how far the NTK is from where it began and was last measured.

    Each measurement gives ``ntk_distance_init`` and, from the second on, ``ntk_distance_previous``;
    ``finish`` gives the distances of all pairs of steps. The archive holds each step's kernel
    once, as ``ntk-00000100``, and the matrix as ``ntk_distance`` with ``steps`` (t,) and
    ``matrix`` (t, t). A kernel that is zero or not finite, as of a network that diverged, has no
    direction: its distances are NaN and the matrix leaves it out.

    The published distance is that of the full kernel: on a run that Zheng et al. recorded, ours
    agrees in size, while that of the trace is less than half of theirs.

    Args:
        num_points: this many of the first probe points.
        reduce: "full", "trace" or "sum", as in ``empirical_ntk``.
        chunk_size: points that go through the model at once; None chooses.
        keep_kernels: whether the kernels stay in the archive once ``finish`` has the distances of
            all pairs. A training that goes on after that needs them.

    Cost: a kernel a measurement, of (num_points * k)^2 numbers in the archive for "full" and
    num_points^2 otherwise. Kernels of a million entries or more are kept in float16, divided by
    their largest entry: rounding so many of them moves a distance by less than 1e-6.
    Those in a run directory are mapped into memory, so that the matrix of many large ones needs no
    room for all of them.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.MLP(5, [8], 3, seed=0)
        >>> probe = torch.randn(16, 5), torch.arange(16) % 3
        >>> monitor = gs.Monitor(model, probe, [gs.NTKDistance(num_points=8)], schedule=10)
        >>> for i in range(31):  # a training loop
        ...     _ = monitor.step(i)
        >>> monitor.history["ntk_distance_init"]
        array([0., 0., 0., 0.])
        >>> monitor.finish()
        >>> monitor.archive.arrays("ntk_distance")["matrix"].shape
        torch.Size([4, 4])
    """

    name = "ntk_distance"

    @checked_arguments
    def __init__(
        self,
        num_points: int = 64,
        reduce: Reduction = "full",
        chunk_size: int | None = None,
        keep_kernels: bool = True,
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points must be a positive integer: got {num_points}")
        check_chunk_size(chunk_size)
        self.num_points = num_points
        self.reduce = reduce
        self.chunk_size = chunk_size
        self.keep_kernels = keep_kernels
        self.steps: list[int] = []

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        """The values at a step; its kernel goes to the archive."""
        x = rows(probe.x, slice(0, self.num_points))
        kernel = tangent_kernel(probe.model, x, reduce=self.reduce, chunk_size=self.chunk_size)
        archive.save_arrays(_name(step), {"kernel": _compact(kernel)})
        self.steps = sorted({*self.steps, step})
        # As it was stored, in whose layout a resumed run would sum it too.
        kernel = _kernel(archive, step)
        figures = {"ntk_distance_init": _distance(_kernel(archive, self.steps[0]), kernel)}
        place = self.steps.index(step)
        if place > 0:
            previous = _kernel(archive, self.steps[place - 1])
            figures["ntk_distance_previous"] = _distance(previous, kernel)
        return figures

    def restore(self, history: History) -> None:
        """Go on after the rows of an earlier part of the same training."""
        self.steps = [row["step"] for row in history if "ntk_distance_init" in row]

    def finish(self, archive: Archive) -> None:
        """Put the distances of all pairs of steps into the archive."""
        known = archive.arrays(self.name)
        if known is not None and not self.keep_kernels and known["measured"].tolist() == self.steps:
            return self._drop_kernels(archive)
        kernels = {step: _kernel(archive, step) for step in self.steps}
        kernels = {step: kernel for step, kernel in kernels.items() if _has_direction(kernel)}
        if kernels:
            matrix = kernel_distance_matrix(list(kernels.values()))
            archive.save_arrays(
                self.name,
                {
                    "steps": torch.tensor(list(kernels)),
                    "matrix": matrix,
                    "measured": torch.tensor(self.steps),
                },
            )
        if not self.keep_kernels:
            self._drop_kernels(archive)
        return None

    def _drop_kernels(self, archive: Archive) -> None:
        for step in self.steps:
            archive.drop_arrays(_name(step))


def _name(step: int) -> str:
    return f"ntk-{step:08d}"


def _kernel(archive: Archive, step: int) -> Tensor:
    stored = archive.arrays(_name(step))
    if stored is None:
        raise FileNotFoundError(
            f"the kernel of step {step} ({_name(step)}) is gone from the archive, and with it the "
            "distances to it"
        )
    kernel = stored["kernel"]
    return kernel.float() if kernel.dtype == torch.float16 else kernel


def _compact(kernel: Tensor) -> Tensor:
    """A large kernel in half precision, at a scale that uses it; a distance sees no scale."""
    largest = kernel.abs().max()
    if kernel.numel() < _LARGE or not largest.isfinite() or largest == 0:
        return kernel
    return (kernel / largest).half()


def _has_direction(kernel: Tensor) -> bool:
    return bool(kernel.isfinite().all()) and bool(kernel.any())


def _distance(one: Tensor, other: Tensor) -> float:
    if not (_has_direction(one) and _has_direction(other)):
        return math.nan
    return float(kernel_distance(one, other))


def tangent_kernel(
    model: nn.Module,
    x1: Batch,
    x2: Batch | None = None,
    *,
    reduce: Reduction,
    chunk_size: int | None,
) -> Tensor:
    """``empirical_ntk``, or NaN (n1, n2) instead of an error where training has diverged."""
    x2 = x1 if x2 is None else x2
    try:
        return empirical_ntk(model, x1, x2, reduce, chunk_size)
    except ValueError:
        with torch.no_grad():
            defined = all(bool(outputs_of(model, x).isfinite().all()) for x in (x1, x2))
        # outputs can be finite and the products of their derivatives not
        if (
            defined
            and empirical_ntk(model, x1, x2, reduce, chunk_size, check=False).isfinite().all()
        ):
            raise
        device = next(iter(leaves(x1).values())).device
        return torch.full((batch_size(x1), batch_size(x2)), torch.nan, device=device)
