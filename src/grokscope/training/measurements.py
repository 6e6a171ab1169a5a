"""The measures that a monitor knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.imports import is_ours
from grokscope.measures.batches import batch_size, rows
from grokscope.measures.fourier import fourier_gini
from grokscope.measures.magnitudes import norms, wide
from grokscope.models.transformer import residue_weights
from grokscope.spelling import unknown_name
from grokscope.training.archive import Archive
from grokscope.training.layer_geometry import LayerGeometry
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.ntk_distance import NTKDistance, tangent_kernel
from grokscope.training.robust_accuracy import RobustAccuracy

# a function (model, x, y) of one's own
Measure = Callable[[nn.Module, Any, Tensor], "Tensor | float"]


def _last_layer_norm(probe: Probe) -> Tensor:
    """The norm of weight and bias of the last module that has parameters of its own."""
    own = [list(module.parameters(recurse=False)) for module in probe.model.modules()]
    last = [parameters for parameters in own if parameters][-1]
    return _norm(last)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all of them together; 0 of none, as in a view of a function."""
    if not parameters:
        return torch.zeros(())
    return norms(torch.stack([norms(wide(own.detach().flatten())) for own in parameters]))


def _point_ntk(probe: Probe) -> Tensor:
    """The mean NTK value of the first point against the others, over outputs too."""
    n = batch_size(probe.x)
    if n < 2:
        raise ValueError("point_ntk needs a probe of two points or more: got 1")
    first, others = rows(probe.x, slice(0, 1)), rows(probe.x, slice(1, n))
    row = tangent_kernel(probe.model, first, others, reduce="trace", chunk_size=probe.chunk_size)
    return row.mean()


def _residue_gini(which: str) -> Callable[[Probe], Tensor]:
    """The Gini coefficient of the Fourier components of one of a model's weights over residues."""

    def measure(probe: Probe) -> Tensor:
        weight = residue_weights(probe.model)[which]
        return fourier_gini(weight, len(weight))

    return measure


MEASUREMENTS: dict[str, Callable[[Probe], Tensor]] = {
    "jacobian_norm": lambda probe: probe.geometry.norm,
    "jacobian_alignment": lambda probe: probe.geometry.alignment,
    "row_alignment": lambda probe: probe.geometry.alignment.abs().amax(dim=1),
    "jacobian_pc1": lambda probe: probe.geometry.pc1,
    "centroid_alignment": lambda probe: probe.geometry.centroid_alignment,
    "centroid_norm": lambda probe: probe.geometry.centroid_norm,
    "centroid_inner_product": lambda probe: probe.geometry.centroid_inner_product,
    "weight_norm": lambda probe: _norm(list(probe.model.parameters())),
    "last_layer_norm": _last_layer_norm,
    "embedding_gini": _residue_gini("embedding"),
    "unembedding_gini": _residue_gini("unembedding"),
    "neuron_logit_gini": _residue_gini("neuron_logit"),
    "point_ntk": _point_ntk,
    "point_inner_product": lambda probe: probe.point.centroid_inner_product,
    "point_alignment": lambda probe: probe.point.centroid_alignment,
    "point_centroid_norm": lambda probe: probe.point.centroid_norm,
}


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


def named(
    measures: Sequence[str | Measure | MeasureWithMemory],
) -> dict[str, str | Measure | MeasureWithMemory]:
    """Measures by the names that their values go under; those with a memory are made."""
    resolved: dict[str, str | Measure | MeasureWithMemory] = {}
    for measure in measures:
        if isinstance(measure, MeasureWithMemory):
            name = measure.name
        elif not isinstance(measure, str):
            if not callable(measure):
                raise TypeError(
                    f"measures must hold names or functions (model, x, y): got {measure!r}"
                )
            name = getattr(measure, "__name__", repr(measure))
        elif measure in MEASURES:
            name, measure = measure, WITH_MEMORY[measure]() if measure in WITH_MEMORY else measure
        else:
            raise ValueError(
                f"measures: {unknown_name('measure', measure, MEASURES)}; a function "
                "(model, x, y) -> float or (n,) serves as well"
            )
        if name in resolved:
            raise ValueError(f"measures holds {name!r} twice; give each a name of its own")
        resolved[name] = measure
    return resolved


def values_of(
    measures: Mapping[str, str | Measure | MeasureWithMemory],
    probe: Probe,
    step: int,
    archive: Archive,
    rewind: Callable[[], None],
) -> dict[str, float]:
    """The values of ``measures`` at a step, by column; ``rewind`` follows each of a user's own."""
    row: dict[str, float] = {}
    for name, measure in measures.items():
        if isinstance(measure, MeasureWithMemory):
            row |= measure.measure(probe, step, archive)
        elif isinstance(measure, str):
            row |= summary(name, MEASUREMENTS[name](probe))
        else:
            assert probe.y is not None
            row |= summary(name, measure(probe.model, probe.x, probe.y))
        if is_own(measure):  # the next one measures the network, not what this one made of it
            rewind()
    return row


def is_own(measure: str | Measure | MeasureWithMemory) -> bool:
    """Whether a measure runs code of the user's own, which can change the network."""
    if isinstance(measure, MeasureWithMemory):
        return not is_ours(measure)
    return not isinstance(measure, str)


def summary(name: str, value: Tensor | float) -> dict[str, float]:
    """A value under its name; of many values the mean, and the extremes as name_min, name_max.

    NaN stands for a value that does not exist, as PC1 of a zero Jacobian, and is left out.
    """
    values = torch.as_tensor(value, dtype=torch.float64).detach().flatten()
    if values.numel() == 1:
        return {name: float(values)}
    values = values[~values.isnan()]
    if not values.numel():
        return {name: float("nan")}
    return {
        name: float(values.mean()),
        f"{name}_min": float(values.min()),
        f"{name}_max": float(values.max()),
    }
