"""A traced network as a function on slices: its outputs, and each layer's inputs, at points.

Everything before the first kink is affine on a whole slice. It is evaluated once, at three points
of each slice, so that no batch of full-size inputs is ever made.

Points are rows (a, b) of slice coordinates, or (a, b, number of the slice) where there are several
slices. The third column is a coordinate like the others: between two points of one slice it is
constant, so interpolation between points need not know of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from grokscope.measures.gradients import gradients_or_zeros
from grokscope.measures.inputs import check_outputs
from grokscope.measures.regions.kinks import KinkFunctions, kink_functions
from grokscope.measures.regions.mesh import Floats
from grokscope.measures.regions.operations import Pair
from grokscope.measures.regions.slice import Slice
from grokscope.measures.regions.trace import Graph, depends_on, execute

# Entries of the largest intermediate tensor of a batch: 32 MB in float64.
_BATCH_ENTRIES = 2**22
# A value counts as zero within this much of the size of the terms that were added up to it.
_TOLERANCE = 1e-12

# Probes of the size of terms: rows of values, as many of rounding, and one row of zeros.
_PROBES = 8
_ROWS = 2 * _PROBES + 1
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Layer:
    """A nonlinear operation: its name, the nodes it takes, and the functions of its kinks."""

    name: str
    inputs: tuple[fx.Node, ...]
    kinks: KinkFunctions


class Network:
    """A piecewise-affine network restricted to one slice or several.

    Attributes:
        layers: the operations with kinks, in order.
        module: the float64 copy of the model that all results are about.
        planes: the slices.
        num_outputs: k.
        batch: how many points are worth evaluating at once.
    """

    def __init__(self, graph: Graph, planes: Sequence[Slice]) -> None:
        self.planes = list(planes)
        self.module, self._graph = graph.module, graph
        tensor = next(iter(self.module.state_dict().values()), planes[0].origin)
        self.device = tensor.device
        self._origin = torch.stack([plane.origin for plane in planes]).to(self.device)
        self._basis = torch.stack([plane.basis for plane in planes]).to(self.device)
        extent = torch.stack([plane.polygon.abs().amax(0) for plane in planes])
        self._extent = extent.to(self.device)
        self._amplitude: dict[fx.Node, Tensor] = {}
        with torch.no_grad():
            shapes = self._shapes()
            self._flatten()
        self.batch = max(1, _BATCH_ENTRIES // max(shape.numel() for shape in shapes.values()))
        self.layers = [
            self._layer(name, node, shapes)
            for name, node in zip(graph.names, graph.nonlinear, strict=True)
        ]
        self.num_outputs = shapes[graph.output].numel()

    def on(self, number: int) -> Network:
        """The same network on one of its slices alone, without what was kept for the search."""
        one = copy.copy(self)
        here = slice(number, number + 1)
        one.planes = self.planes[here]
        one._origin, one._basis = self._origin[here], self._basis[here]
        one._extent = self._extent[here]
        one._flat = {n: (base[here], along[here]) for n, (base, along) in self._flat.items()}
        vars(one).pop("_term_sizes", None)
        return one

    def inputs(self, points: Tensor) -> Tensor:
        """The inputs (n, *d) at points, on the model's device."""
        return self._placed(points.to(self._basis), self._origin, self._basis)

    def outputs(self, points: Tensor) -> Tensor:
        """The outputs (n, k) at points."""
        (value,) = self._at(points.to(self._basis), (self._graph.output,))
        return check_outputs(value, len(points))

    def outputs_of(self, x: Tensor) -> Tensor:
        """The outputs (n, k) of inputs (n, *d), on or off the slice."""
        graph = self._graph
        values: dict[fx.Node, Any] = {graph.input: x}
        for node in graph.nodes:
            if node is not graph.input:
                values[node] = execute(graph, node, values)
        return check_outputs(values[graph.output], len(x))

    def output_layer(self, kinks: KinkFunctions) -> Layer:
        """A layer on top of the outputs, with the kinks given."""
        return Layer("decision", (self._graph.output,), kinks)

    @torch.no_grad()
    def layer_inputs(self, layer: Layer, points: Floats) -> Iterator[Tensor]:
        """A layer's flattened inputs (c, features) at points, batch by batch."""
        for chunk in torch.from_numpy(points).to(self.device).split(self.batch):
            values = self._at(chunk, layer.inputs, record=True)
            yield _side_by_side(values, len(chunk))

    def pattern(self, layer: Layer, points: Floats) -> Tensor:
        """(n, units) int16, which affine piece each unit of a layer is on at points."""
        inputs = list(self.layer_inputs(layer, points))
        scale = self.scale(layer)  # after the evaluation, which may raise it
        return torch.cat([layer.kinks.pattern(part, scale) for part in inputs])

    @torch.no_grad()
    def scale(self, layer: Layer) -> Tensor:
        """(features,), the size of the terms that each input of a layer is the sum of."""
        sizes = self._term_sizes(layer.inputs, self._amplitude)
        return torch.cat([one.flatten() for one in torch.broadcast_tensors(*sizes)])

    @cached_property
    def _term_sizes(self) -> _TermSizes:
        reach = torch.einsum("si,sid->sd", self._extent, self._basis.abs().flatten(2))
        size = (self._origin.flatten(1).abs() + reach).amax(0).reshape(self._origin.shape[1:])
        return _TermSizes(self._graph, self._flat, size)

    def slice_maps(self, points: Floats) -> tuple[Tensor, Tensor]:
        """The affine maps around points (n, 2), as functions of slice coordinates.

        Returns:
            gradient (n, k, 2) and offset (n, k): the outputs at c are gradient @ c + offset.
        """
        with torch.inference_mode(False):
            chunks = torch.from_numpy(points).to(self.device).split(self.batch)
            gradients, offsets = zip(*(_map_at(self.outputs, c) for c in chunks), strict=True)
            return torch.cat(gradients), torch.cat(offsets)

    def input_maps(self, points: Floats, chunk_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The affine maps around points, as functions of the input, in chunks.

        Yields:
            A (c, k, *d) and b (c, k): the outputs at x are A x + b.
        """
        for chunk in torch.from_numpy(points).to(self.device).split(chunk_size):
            with torch.inference_mode(False):
                found = _map_at(self.outputs_of, self.inputs(chunk))
            yield found

    def centroids(self, points: Floats, chunk_size: int) -> Iterator[Tensor]:
        """The centroids J^T 1 (c, *d) at points, in chunks."""
        for chunk in torch.from_numpy(points).to(self.device).split(chunk_size):
            with torch.inference_mode(False), torch.enable_grad():
                x = self.inputs(chunk).requires_grad_()
                total = self.outputs_of(x).sum()
                found = gradients_or_zeros(total, [x])[0]
            yield found

    def _shapes(self) -> dict[fx.Node, torch.Size]:
        """What shape each tensor has without its batch axis, from a run on two inputs."""
        graph = self._graph
        x = self._origin[0] + torch.stack([self._basis[0, 0] * 0, self._basis[0, 0]])
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
        if not bool(torch.isfinite(check_outputs(values[graph.output], 2)).all()):
            raise ValueError(
                "model returns NaN or infinity at the slice's origin, so it has no regions there: "
                "look for weights that are not finite"
            )
        for node, name in zip(graph.nonlinear, graph.names, strict=True):
            if values[node].ndim < 2 or len(values[node]) != 2:
                raise ValueError(
                    f"model's layer {name!r} must keep the batch on the first axis: got shape "
                    f"{tuple(values[node].shape)} for a batch of 2"
                )
        return {n: v.shape[1:] for n, v in values.items() if isinstance(v, Tensor) and v.ndim}

    def _layer(self, name: str, node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> Layer:
        kind = self._graph.nonlinear[node]
        if isinstance(kind, Pair):
            inputs = [source for source in node.args if isinstance(source, fx.Node)]
            return Layer(name, tuple(inputs), kink_functions(kind, shapes[node]))
        source = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(source, fx.Node)
        return Layer(name, (source,), kink_functions(kind, shapes[source]))

    def _flatten(self) -> None:
        """Write what is affine on each whole slice as base + a along[0] + b along[1]."""
        graph, count = self._graph, len(self.planes)
        # whatever reads a nonlinearity, however far behind it; all else is affine on the whole
        # slice
        kinked = set(graph.nonlinear)
        for node in graph.nodes:
            if kinked.intersection(node.all_input_nodes):
                kinked.add(node)
        # The origin and the ends of both axes, one after the other for each slice.
        ends = self._basis * self._extent.reshape(count, 2, *[1] * (self._origin.ndim - 1))
        corners = torch.cat([self._origin[:, None], self._origin[:, None] + ends], dim=1)
        values: dict[fx.Node, Any] = {graph.input: corners.flatten(0, 1)}
        self._flat: dict[fx.Node, tuple[Tensor, Tensor]] = {}
        for node in graph.nodes:
            if node in kinked:
                continue
            if node is not graph.input:
                values[node] = execute(graph, node, values)
            outside = [user for user in node.users if user in kinked or user not in graph.data]
            if node in graph.data and (outside or node is graph.output):
                self._flat[node] = self._affine(node.name, values[node])

    def _affine(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Base (S, ...) and directions (S, 2, ...) from the values at three points a slice."""
        count = len(self.planes)
        if len(value) != 3 * count:
            raise ValueError(
                f"model must keep the batch on the first axis: {name!r} has shape "
                f"{tuple(value.shape)} for a batch of {3 * count}"
            )
        value = value.unflatten(0, (count, 3))
        base, ends = value[:, 0], value[:, 1:]
        return base, (ends - base[:, None]) / self._extent.reshape(count, 2, *[1] * (base.ndim - 1))

    def _placed(self, points: Tensor, base: Tensor, along: Tensor) -> Tensor:
        """Base + a along[0] + b along[1] for each point, on its slice."""
        if len(base) == 1:
            flat = torch.addmm(base.flatten(1), points[:, :2], along[0].flatten(1))
            return flat.reshape(-1, *base.shape[1:])
        number = points[:, 2].long()
        a, b = (points[:, i].reshape(-1, *[1] * (base.ndim - 1)) for i in (0, 1))
        return base[number].addcmul_(a, along[number, 0]).addcmul_(b, along[number, 1])

    def _flat_value(self, node: fx.Node, points: Tensor, shape_only: bool) -> Tensor:
        base, along = self._flat[node]
        if shape_only:
            return base[:1].expand(len(points), *base.shape[1:])
        return self._placed(points, base, along)

    def _at(
        self, points: Tensor, wanted: tuple[fx.Node, ...], record: bool = False
    ) -> list[Tensor]:
        """The values of nodes at points; ``record`` how large those of nonlinear ones are."""
        graph = self._graph
        values: dict[fx.Node, Any] = {}
        order = depends_on(graph.nodes, list(wanted), set(self._flat))
        for node in order:
            for source in node.all_input_nodes:
                if source in self._flat and source not in values:
                    shape_only = all(user not in graph.data for user in source.users)
                    values[source] = self._flat_value(source, points, shape_only)
            values[node] = execute(graph, node, values)
            if record and node in graph.nonlinear:
                self._record(node, values[node])
        for node in wanted:
            if node in self._flat and node not in values:
                values[node] = self._flat_value(node, points, shape_only=False)
        return [values[node] for node in wanted]

    def _record(self, node: fx.Node, value: Tensor) -> None:
        """Remember the largest magnitude that each of a layer's outputs has shown."""
        largest = torch.maximum(value.amax(0), -value.amin(0))
        before = self._amplitude.get(node)
        self._amplitude[node] = largest if before is None else torch.maximum(before, largest)


def tolerance(scale: Tensor) -> Floats:
    """How far from zero a sum of terms of this size counts as zero."""
    return _TOLERANCE * scale.numpy(force=True)


def _side_by_side(inputs: list[Tensor], count: int) -> Tensor:
    """A layer's inputs, flattened, one after the other."""
    if len(inputs) == 1:
        return inputs[0].reshape(count, -1)
    return torch.cat([x.reshape(count, -1) for x in torch.broadcast_tensors(*inputs)], dim=1)


def _map_at(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of a function around each x (n, *d): (n, k, *d) and (n, k)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = function(x)
        rows = [gradients_or_zeros(output, [x], retain_graph=True)[0] for output in outputs.sum(0)]
    # examples do not mix, so one backward pass of a summed output gives its row at every example
    jacobian = torch.stack(rows, dim=1)
    linear = (jacobian * x.detach().unsqueeze(1)).flatten(2).sum(2)
    return jacobian, outputs.detach() - linear


class _TermSizes:
    """How large the terms are that each value of a graph is the sum of.

    A value that is zero by cancellation comes out as rounding, relative to the terms and not to
    the value. The size of the terms is estimated by giving each a random sign: a few such probes go
    through the graph, and after every operation all signs are drawn anew, so that nothing cancels
    twice. Behind a nonlinearity whose outputs all vanish there is still the rounding of what came
    before; it travels in probes of its own, in units in which a term of size 1 has rounding 1e-3.

    Args:
        graph: the traced module.
        flat: the nodes in front of the first nonlinearities; their probes are kept.
        size: (*d,), the largest magnitude of each input.
    """

    def __init__(self, graph: Graph, flat: Iterable[fx.Node], size: Tensor) -> None:
        self._graph = graph
        self._generator = np.random.default_rng(0)
        given = {graph.input: self._rows(_spread(size), _spread(0 * size))}
        known = self._through(list(flat), given, {})
        self._flat = {node: known[node] for node in flat}

    def __call__(
        self, wanted: tuple[fx.Node, ...], amplitude: dict[fx.Node, Tensor]
    ) -> list[Tensor]:
        """(features of the node), for each node wanted.

        Args:
            wanted: the nodes.
            amplitude: for nonlinear nodes, the largest magnitude each output is known to take.
        """
        self._generator = np.random.default_rng(1)  # the same sizes at every call
        known = self._through(list(wanted), self._flat, amplitude)
        data = self._graph.data
        return [_sizes(known[node]) if node in data else known[node].abs() for node in wanted]

    def _through(
        self, wanted: list[fx.Node], given: dict[fx.Node, Any], amplitude: dict[fx.Node, Tensor]
    ) -> dict[fx.Node, Any]:
        """The probes at the nodes that lead from those given to those wanted."""
        graph, known = self._graph, dict(given)
        for node in depends_on(graph.nodes, wanted, set(given)):
            nonlinear = node in graph.nonlinear
            # a nonlinearity would cut off the probes that are drawn negative: it gets magnitudes
            inputs = known
            if nonlinear:
                before = {source: known[source] for source in node.all_input_nodes}
                inputs = {s: v.abs() if isinstance(v, Tensor) else v for s, v in before.items()}
            value = execute(graph, node, inputs)
            known[node] = value
            if node in graph.data and isinstance(value, Tensor) and len(value) == _ROWS:
                linear = value - value[-1:]  # without the biases, which are terms of all rows alike
                values, rounding = value[:_PROBES], linear[_PROBES:-1]
                if nonlinear:
                    made = _ROUNDING * linear[:_PROBES].abs().amax(0)
                    rounding = _spread(made + rounding.abs().amax(0))
                    values = _spread(amplitude.get(node, values.abs().amax(0)))
                known[node] = self._rows(values, rounding)
        return known

    def _rows(self, values: Tensor, rounding: Tensor) -> Tensor:
        """Both, each entry with a sign of its own, and a row of zeros."""
        both = torch.cat([values, rounding, torch.zeros_like(values[:1])])
        # Whole bytes of random bits: eight signs for the price of one draw.
        bits = np.frombuffer(self._generator.bytes(-(-both.numel() // 8)), np.uint8)
        signs = 2 * np.unpackbits(bits, count=both.numel()).view(np.int8) - 1
        return both.mul_(torch.from_numpy(signs).to(both.device).view_as(both))


def _spread(value: Tensor) -> Tensor:
    return value.expand(_PROBES, *value.shape)


def _sizes(value: Tensor) -> Tensor:
    """The size of values and rounding together."""
    return value[:_PROBES].abs().amax(0) + value[_PROBES:-1].abs().amax(0)
