"""How the representation of the classes changes, layer by layer, while a network is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.activations import layer_activations
from grokscope.measures.capacity import manifold_geometry
from grokscope.measures.manifolds import class_manifolds
from grokscope.measures.probe import linear_probe
from grokscope.training.archive import Archive
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe

_FIGURES = ("capacity", "radius", "dimension", "center_correlation")


class LayerGeometry(MeasureWithMemory):
    """Manifold geometry of each layer on the probe and the test points, and a linear probe.

    Columns are named by figure and layer: ``capacity/linear1``, ``radius/linear1``,
    ``dimension/linear1`` and ``center_correlation/linear1`` for the probe points, the same with
    ``test_`` in front for the monitor's test points, and then ``linear_probe/linear1``, the test
    accuracy of a linear layer fitted to the probe points' activations, unless ``linear_probe`` is
    False: where features are large, fitting it costs ten times what the geometry does. A figure
    that does not exist, as of a layer whose units are all dead, is NaN.

    Args:
        layers: names as in ``model.named_modules()``; None for all that hold parameters or act.
        num_points: points of each class; classes with fewer take part with all they have.
        num_samples: Gaussian vectors of a measurement; the paper takes 200.
        linear_probe: whether to fit the linear probes.
        probe_points: whether to measure the probe points; else the test points alone.

    Cost: that of ``manifold_geometry`` for each layer and set of points, some 0.1 s for 10
    classes of 50 points.

    Example:
        >>> import torch, grokscope as gs
        >>> data = gs.load_data("digits", train_size=300)
        >>> model = gs.MLP(64, [16], 10, seed=0)
        >>> geometry = gs.LayerGeometry(layers=["linear1"], num_points=20, num_samples=20)
        >>> monitor = gs.Monitor(model, (data.train_x, data.train_y), [geometry])
        >>> sorted(name for name in monitor.step(0) if "linear1" in name)
        ['capacity/linear1', 'center_correlation/linear1', 'dimension/linear1', 'radius/linear1']
    """

    name = "manifold_geometry"

    @checked_arguments
    def __init__(
        self,
        layers: Sequence[str] | None = None,
        num_points: int = 50,
        num_samples: int = 100,
        linear_probe: bool = True,
        probe_points: bool = True,
    ) -> None:
        for name, value in (("num_points", num_points), ("num_samples", num_samples)):
            if value < 1:
                raise ValueError(f"{name} must be a positive integer: got {value}")
        self.layers = layers
        self.num_points = num_points
        self.num_samples = num_samples
        self.linear_probe = linear_probe
        self.probe_points = probe_points

    def measure(self, probe: Probe, step: int, archive: Archive) -> dict[str, float]:
        """The values of every layer."""
        if probe.y is None:
            raise ValueError("manifold_geometry needs labels of the probe points")
        activations = layer_activations(probe.model, probe.x, self.layers, probe.chunk_size)
        row: dict[str, float] = {}
        for layer, features in activations.items() if self.probe_points else ():
            row |= self._geometry(features, probe.y, "", layer)
        if probe.test is None:
            return row
        test_x, test_y = probe.test
        tested = layer_activations(probe.model, test_x, self.layers, probe.chunk_size)
        for layer, features in tested.items():
            row |= self._geometry(features, test_y, "test_", layer)
            if self.linear_probe:
                row[f"linear_probe/{layer}"] = _probe_accuracy(
                    activations[layer], probe.y, features, test_y
                )
        return row

    def _geometry(self, features: Tensor, y: Tensor, split: str, layer: str) -> dict[str, float]:
        manifolds = class_manifolds(features, y, self.num_points)
        try:
            found = manifold_geometry(manifolds, num_samples=self.num_samples)
        except ValueError:  # dead units, or a network that diverged
            return {f"{split}{name}/{layer}": math.nan for name in _FIGURES}
        values = (
            found.mean_capacity,
            found.mean_radius,
            found.mean_dimension,
            found.center_correlation,
        )
        return {
            f"{split}{name}/{layer}": float(value)
            for name, value in zip(_FIGURES, values, strict=True)
        }


def _probe_accuracy(train_features: Tensor, train_y: Tensor, features: Tensor, y: Tensor) -> float:
    try:
        return float(linear_probe(train_features, train_y, features, y).accuracy)
    except ValueError:
        return math.nan
