"""A traced network as a function on a slice: its outputs, and each layer's bends, at points.

Everything before the first bend is affine on the whole slice. It is evaluated once, at three
points, so that no batch of full-size inputs is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from grokscope.measures.inputs import Model, check_outputs
from grokscope.measures.regions.bends import Columns, columns_of
from grokscope.measures.regions.operations import Pair
from grokscope.measures.regions.rings import Floats
from grokscope.measures.regions.scales import term_sizes
from grokscope.measures.regions.slice import Slice
from grokscope.measures.regions.trace import depends_on, execute, trace

# Entries of the largest intermediate tensor of a batch: 32 MB in float64.
_BATCH_ENTRIES = 2**22
# A value counts as zero within this much of the size of the terms that were added up to it.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Layer:
    """Something that bends: its name, the nodes it takes, and its bends."""

    name: str
    inputs: tuple[fx.Node, ...]
    columns: Columns


class Network:
    """A piecewise-affine network restricted to a slice.

    Attributes:
        layers: the operations that bend, in order.
        module: the float64 copy of the model that all results are about.
        plane: the slice.
        num_outputs: k.
        batch: how many points are worth evaluating at once.
    """

    def __init__(self, model: Model, plane: Slice) -> None:
        self.plane = plane
        self._graph = trace(model)
        self.module = self._graph.module
        tensor = next(iter(self.module.state_dict().values()), plane.origin)
        self.device = tensor.device
        self._origin = plane.origin.to(self.device)
        self._basis = plane.basis.to(self.device)
        self._extent = plane.polygon.abs().max(0).values.to(self.device)
        self._amplitude: dict[fx.Node, Tensor] = {}
        with torch.no_grad():
            shapes = self._shapes()
            self._flatten()
        self.batch = max(1, _BATCH_ENTRIES // max(shape.numel() for shape in shapes.values()))
        self.layers = [
            self._layer(name, node, shapes)
            for name, node in zip(self._graph.names, self._graph.bends, strict=True)
        ]
        output = self._graph.output
        self.num_outputs = shapes[output].numel()

    def inputs(self, coordinates: Tensor) -> Tensor:
        """The inputs (n, *d) at slice coordinates (n, 2), on the model's device."""
        offset = coordinates.to(self._basis) @ self._basis.flatten(1)
        return self._origin + offset.reshape(-1, *self._origin.shape)

    def outputs(self, coordinates: Tensor) -> Tensor:
        """The outputs (n, k) at slice coordinates (n, 2)."""
        (value,) = self._at(coordinates.to(self._basis), (self._graph.output,))
        return check_outputs(value, len(coordinates))

    def outputs_of(self, x: Tensor) -> Tensor:
        """The outputs (n, k) of inputs (n, *d), on or off the slice."""
        graph = self._graph
        values: dict[fx.Node, Any] = {graph.input: x}
        for node in graph.nodes:
            if node is not graph.input:
                values[node] = execute(graph, node, values)
        return check_outputs(values[graph.output], len(x))

    def output_layer(self, columns: Columns) -> Layer:
        """A layer on top of the outputs, bending as ``columns`` says."""
        return Layer("decision", (self._graph.output,), columns)

    def columns(
        self, layer: Layer, points: Floats, units: Tensor, stage: int
    ) -> tuple[Floats, Floats]:
        """The functions of a layer's stage at points, and how far from zero each counts as zero.

        Args:
            layer: the layer.
            points: (n, 2), slice coordinates.
            units: the units wanted.
            stage: the stage.

        Returns:
            values (n, C) and tolerances (C,).
        """
        chosen = units.to(self.device)
        values = self._batched(
            layer, points, lambda inputs: layer.columns.columns(inputs, chosen, stage)
        )
        scale = layer.columns.scales(self._scale(layer), chosen, stage)
        return values.numpy(force=True), _TOLERANCE * scale.numpy(force=True)

    def values(self, layer: Layer, points: Floats) -> tuple[Floats, Floats]:
        """A layer's flattened inputs (n, features) at points (n, 2), and their tolerances."""
        values = self._batched(layer, points, lambda inputs: inputs)
        return values.numpy(force=True), _TOLERANCE * self._scale(layer).numpy(force=True)

    def pattern(self, layer: Layer, points: Floats, units: Tensor | None = None) -> Tensor:
        """(n, units) int16, which affine piece each unit of a layer is on at points (n, 2)."""
        every = torch.arange(layer.columns.num_units, device=self.device)
        chosen = every if units is None else units.to(self.device)
        scale = self._scale(layer)
        return self._batched(
            layer, points, lambda inputs: layer.columns.pattern(inputs, scale, chosen)
        )

    @torch.no_grad()
    def _batched(self, layer: Layer, points: Floats, read: Callable[[Tensor], Tensor]) -> Tensor:
        """``read`` of the layer's flattened inputs, batch by batch, end to end."""
        coordinates = torch.from_numpy(points).to(self.device)
        parts = [
            read(self._joined(self._at(chunk, layer.inputs, record=True), len(chunk)))
            for chunk in coordinates.split(self.batch)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _joined(inputs: list[Tensor], count: int) -> Tensor:
        """A layer's inputs, flattened and side by side."""
        if len(inputs) == 1:
            return inputs[0].reshape(count, -1)
        return torch.cat([x.reshape(count, -1) for x in torch.broadcast_tensors(*inputs)], dim=1)

    def _shapes(self) -> dict[fx.Node, torch.Size]:
        """What shape each tensor has without its batch axis, from a run on two inputs."""
        graph = self._graph
        x = self.inputs(self.plane.polygon[:2])
        values: dict[fx.Node, Any] = {graph.input: x}
        try:
            for node in graph.nodes:
                if node is not graph.input:
                    values[node] = execute(graph, node, values)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"model cannot take a float64 batch of shape {tuple(x.shape)}, made from the "
                f"slice's origin: {error}"
            ) from error
        check_outputs(values[graph.output], 2)
        for node, name in zip(graph.bends, graph.names, strict=True):
            if values[node].ndim < 2 or len(values[node]) != 2:
                raise ValueError(
                    f"model's layer {name!r} must keep the batch on the first axis: got shape "
                    f"{tuple(values[node].shape)} for a batch of 2"
                )
        return {n: v.shape[1:] for n, v in values.items() if isinstance(v, Tensor) and v.ndim}

    def _layer(self, name: str, node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> Layer:
        bend = self._graph.bends[node]
        if isinstance(bend, Pair):
            inputs = [source for source in node.args if isinstance(source, fx.Node)]
            return Layer(name, tuple(inputs), columns_of(bend, shapes[node]))
        source = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(source, fx.Node)
        return Layer(name, (source,), columns_of(bend, shapes[source]))

    def _flatten(self) -> None:
        """Write what is affine on the whole slice as base + a along[0] + b along[1]."""
        graph, extent = self._graph, self._extent
        bent = set(graph.bends)
        for node in graph.nodes:
            if bent.intersection(node.all_input_nodes):
                bent.add(node)
        corners = torch.cat([torch.zeros_like(extent)[None], torch.diag(extent)])
        values: dict[fx.Node, Any] = {graph.input: self.inputs(corners)}
        self._flat: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        for node in graph.nodes:
            if node in bent:
                continue
            if node is not graph.input:
                values[node] = execute(graph, node, values)
            outside = [user for user in node.users if user in bent or user not in graph.data]
            if node in graph.data and (outside or node is graph.output):
                self._flat[node] = self._affine(node.name, values[node])

    def _affine(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Base and directions from the values at the origin and at the ends of both axes."""
        if len(value) != 3:
            raise ValueError(
                f"model must keep the batch on the first axis: {name!r} has shape "
                f"{tuple(value.shape)} for a batch of 3"
            )
        base, ends = value[:1], value[1:]
        return base, (ends - base) / self._extent.reshape(2, *[1] * (base.ndim - 1))

    def _flat_value(self, node: fx.Node, coordinates: Tensor, shape_only: bool) -> Tensor:
        base, along = self._flat[node]
        if shape_only:
            return base.expand(len(coordinates), *base.shape[1:])
        return torch.addmm(base.flatten(1), coordinates, along.flatten(1)).reshape(
            -1, *base.shape[1:]
        )

    def _at(
        self, coordinates: Tensor, wanted: tuple[fx.Node, ...], record: bool = False
    ) -> list[Tensor]:
        """The values of nodes at slice coordinates (n, 2); ``record`` how large the bends' are."""
        graph = self._graph
        values: dict[fx.Node, Any] = {}
        order = depends_on(graph.nodes, list(wanted), set(self._flat))
        for node in order:
            for source in node.all_input_nodes:
                if source in self._flat and source not in values:
                    shape_only = all(user not in graph.data for user in source.users)
                    values[source] = self._flat_value(source, coordinates, shape_only)
            values[node] = execute(graph, node, values)
            if record and node in graph.bends:
                self._record(node, values[node])
        for node in wanted:
            if node in self._flat and node not in values:
                values[node] = self._flat_value(node, coordinates, shape_only=False)
        return [values[node] for node in wanted]

    def _record(self, node: fx.Node, value: Tensor) -> None:
        """Remember the largest magnitude that each of a layer's outputs has shown."""
        largest = value.abs().amax(0)
        before = self._amplitude.get(node)
        self._amplitude[node] = largest if before is None else torch.maximum(before, largest)

    @torch.no_grad()
    def _scale(self, layer: Layer) -> Tensor:
        """(features,), the size of the terms that each input of a layer is the sum of."""
        reach = (self._extent @ self._basis.abs().flatten(1)).reshape(self._origin.shape)
        size = self._origin.abs() + reach
        sizes = term_sizes(self._graph, layer.inputs, size, self._amplitude)
        return torch.cat([one.flatten() for one in torch.broadcast_tensors(*sizes)])
