"""The measures that a monitor knows by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from grokscope.measures.batches import Batch, batch_size, leaves, rows
from grokscope.measures.fourier import fourier_gini
from grokscope.measures.magnitudes import norms, wide
from grokscope.measures.ntk import empirical_ntk
from grokscope.measures.view import outputs_of
from grokscope.models.transformer import residue_weights
from grokscope.training.measure_with_memory import Probe

Reduction = Literal["full", "trace", "sum"]


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


def _weight_norm(probe: Probe) -> Tensor:
    return _norm(list(probe.model.parameters()))


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
    "weight_norm": _weight_norm,
    "last_layer_norm": _last_layer_norm,
    "embedding_gini": _residue_gini("embedding"),
    "unembedding_gini": _residue_gini("unembedding"),
    "neuron_logit_gini": _residue_gini("neuron_logit"),
    "point_ntk": _point_ntk,
    "point_inner_product": lambda probe: probe.point.centroid_inner_product,
    "point_alignment": lambda probe: probe.point.centroid_alignment,
    "point_centroid_norm": lambda probe: probe.point.centroid_norm,
}


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
