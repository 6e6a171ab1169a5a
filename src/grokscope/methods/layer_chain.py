"""Jacobian norm and offset of a chain of layers, convolutions included, without double backward.

Near x every layer l of a network of convolutions, pooling and piecewise-linear activations is a
linear map L_l, so that for an output-side vector u

    h_L = u,   h_{l-1} = L_l^T h_l,   s = ||u^T A||^2 = ||h_0||^2.

In s a weight occurs once, in h_0 = ... W_l^T ... u, and only linearly. With the tangent

    t_0 = 2 h_0,   t_l = L_l t_{l-1},

the derivative of s by W_l is therefore what backpropagation would give W_l for the input t_{l-1}
and the gradient h_l of its output. Three passes do it, each of them an ordinary one: the cotangents
h go back on the graph of the forward pass that training needs anyway, the tangents go forward, and
each layer's weight gradient is taken from the two. A training step is three such passes, so that it
costs twice as much with the penalty; with double backward about three times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from grokscope.measures.chain import GLOBAL_HOOKS, is_identity, is_known, is_plain, leaves_of
from grokscope.measures.precision import full_precision
from grokscope.measures.scale import Normalize, Scale
from grokscope.measures.view import Model
from grokscope.methods.convolutions import Settings, gradient_by_input, gradient_by_kernel

_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)
# linear in their input as they stand
_LINEAR = (
    nn.Flatten, nn.Unflatten, Scale,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_WEIGHTED = (*_CONVOLUTIONS, nn.Linear, *_BATCH_NORMS)


def layers_of(model: Model, x: Tensor) -> list[nn.Module] | None:
    """The layers that ``model`` runs one after the other, or None where that is not certain.

    Certain means what it means for `grokscope.measures.chain.chain_of`. Every parameter of a
    convolution, linear layer or BatchNorm must be trained; BatchNorm must be in eval mode.
    """
    if not isinstance(model, nn.Module) or any(GLOBAL_HOOKS) or x.ndim < 2:
        return None
    if any(module._compiled_call_impl is not None for module in model.modules()):
        return None
    layers = leaves_of(model)
    if not layers or not all(_is_linear_near_x(layer) for layer in layers):
        return None
    if not _keeps_what_is_read(layers, x.ndim == 2):
        return None
    weights = [layer.weight for layer in layers if isinstance(layer, _WEIGHTED)]
    fits = all(weight.dtype == x.dtype and weight.device == x.device for weight in weights)
    return layers if weights and fits else None


def _is_linear_near_x(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind in _CONVOLUTIONS or kind is nn.Linear:
        padding = getattr(layer, "padding", ())
        zeros = getattr(layer, "padding_mode", "zeros") == "zeros" and not isinstance(padding, str)
        return zeros and is_plain(layer) and _is_trained(layer)
    if kind in _BATCH_NORMS:
        norm = cast(nn.BatchNorm2d, layer)
        fixed = not norm.training and norm.running_mean is not None
        return fixed and norm.affine and is_plain(norm) and _is_trained(norm)
    if kind in _MAX_POOLS:
        return not cast(nn.MaxPool2d, layer).return_indices
    return (
        kind in _LINEAR
        or kind is Normalize
        or (kind in _ACTIVATIONS and is_known(layer))
        or is_identity(layer)
    )


def _keeps_what_is_read(layers: Sequence[nn.Module], flat: bool) -> bool:
    """Whether activations in place spoil nothing: another's output, or a place in the graph.

    In place on a view (of `Flatten`, or of a linear layer on more than two axes) autograd writes
    the graph anew.
    """
    before: nn.Module | None = None
    for layer in layers:
        if getattr(layer, "inplace", False):
            if isinstance(before, (*_ACTIVATIONS, nn.Flatten, nn.Unflatten)):
                return False
            if isinstance(before, nn.Linear) and not flat:
                return False
        if isinstance(layer, nn.Flatten):
            flat = layer.start_dim == 1 and layer.end_dim == -1
        elif isinstance(layer, nn.Unflatten):
            flat = False
        if not is_identity(layer):
            before = layer
    return True


def _is_trained(layer: nn.Module) -> bool:
    return all(parameter.requires_grad for parameter in layer.parameters())


class LayerPass:
    """A forward pass of a chain of layers, with the graph that the training step makes of it.

    Attributes:
        layers: the layers in order.
        x: the batch (n, *d).
        inputs: what each layer was given, without a graph.
        outputs: what each returned, without a graph.
        result: the outputs (n, k) of the network.
    """

    def __init__(self, layers: Sequence[nn.Module], x: Tensor) -> None:
        self.layers = list(layers)
        self.x = x.detach()
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self._edges: list[GradientEdge | None] = []

    @classmethod
    def run(cls, layers: Sequence[nn.Module], x: Float[Tensor, " n *d"]) -> LayerPass:
        """A forward pass of its own."""
        made = cls(layers, x)
        hidden = made.x.clone()  # an activation in place may come first
        with torch.enable_grad():
            for layer in layers:
                given, hidden = hidden, layer(hidden)
                made.note(given, hidden)
        return made

    def note(self, given: Tensor, output: Tensor) -> None:
        """Keep what the next layer was given and what it returned."""
        self.inputs.append(given.detach())
        self.outputs.append(output.detach())
        # An edge, not the tensor: an activation in place would make the tensor its own output.
        self._edges.append(get_gradient_edge(output) if output.requires_grad else None)
        self._last = output

    @property
    def is_complete(self) -> bool:
        """Whether every layer was noted, once each."""
        return len(self.inputs) == len(self.layers)

    @property
    def result(self) -> Float[Tensor, "n k"]:
        """The outputs of the network, with their graph."""
        with torch.enable_grad():
            return self._last.unsqueeze(1) if self._last.ndim == 1 else self._last

    @property
    def first(self) -> int:
        """The place of the first layer with a weight."""
        return next(i for i, layer in enumerate(self.layers) if isinstance(layer, _WEIGHTED))

    @property
    def weighted(self) -> list[int]:
        """The places of the layers with a weight."""
        return [i for i, layer in enumerate(self.layers) if isinstance(layer, _WEIGHTED)]

    @property
    def weights(self) -> list[Tensor]:
        """The weights, of each such layer one."""
        return [cast(nn.Linear, self.layers[i]).weight for i in self.weighted]

    def cotangents(self, u: Float[Tensor, "n k"]) -> tuple[Float[Tensor, " n *d"], list[Tensor]]:
        """h_0, and h_l behind each layer with a weight."""
        try:
            behind = self._behind(u)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # the loss went back first, and its graph is gone
            again = LayerPass.run(self.layers, self.x)
            self._edges, self._last = again._edges, again._last
            behind = self._behind(u)
        h = behind[0]
        for i in range(self.first, -1, -1):
            h = _transposed(self.layers[i], self.inputs[i], h)
        return h, behind

    def _behind(self, u: Float[Tensor, "n k"]) -> list[Tensor]:
        """h_l behind each layer with a weight.

        By one backward pass over the graph that training needs anyway, which is why it is retained.
        In front of the first weight there need be no graph: there layers are transposed.
        """
        edges = [cast(GradientEdge, self._edges[i]) for i in self.weighted]
        return list(torch.autograd.grad([self.result], edges, [u], retain_graph=True))

    def tangents(self, t: Float[Tensor, " n *d"]) -> list[Tensor]:
        """t_{l-1} before each layer with a weight, for t_0."""
        before, weighted = [], self.weighted
        for i in range(weighted[-1] + 1):
            if i in weighted:
                before.append(t)
            if i < weighted[-1]:
                t = _linear_part(self.layers[i], self.inputs[i], self.outputs[i], t)
        return before


def layer_squared_norms(made: LayerPass, directions: Float[Tensor, "n r k"]) -> Float[Tensor, " n"]:
    """The squared norms of u^T A, summed over the r directions u of every example."""
    with full_precision(made.x):
        return _SquaredNorms.apply(made, directions, *made.weights)


def layer_squared_offsets(made: LayerPass) -> Float[Tensor, " n"]:
    """||b_x||^2 for b_x = f(x) - A_x x: the affine map that the network is near x, at zero."""
    with full_precision(made.x):
        # the affine map itself at zero, so each linear layer runs with its bias; activations and
        # pools stay the linear maps that they are near x, and would choose otherwise if they were
        # run
        t = torch.zeros_like(made.x)
        for layer, given, output in zip(made.layers, made.inputs, made.outputs, strict=True):
            if isinstance(layer, (*_ACTIVATIONS, *_MAX_POOLS)):
                t = _linear_part(layer, given, output, t)
            else:
                t = layer(t)
            if isinstance(layer, nn.Hardtanh):  # where it saturates, its output is its intercept
                t = t + output - _linear_part(layer, given, output, output)
        return t.reshape(len(t), -1).square().sum(1)


class _SquaredNorms(torch.autograd.Function):
    """||u^T A||^2 summed over directions, differentiable in the weights."""

    @staticmethod
    def forward(ctx: Any, made: LayerPass, directions: Tensor, *weights: Tensor) -> Tensor:
        found = [made.cotangents(u) for u in directions.unbind(1)]
        ctx.made, ctx.found = made, found
        ctx.save_for_backward(*weights)  # so that a change in place before backward is noticed
        return torch.stack([h.flatten(1).square().sum(1) for h, _ in found]).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        made, weights = ctx.made, ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(weights)
        with full_precision(gradient):
            for h, behind in ctx.found:
                scale = (2 * gradient).view(-1, *[1] * (h.ndim - 1))
                # t_0 = 2 h_0, each example's times the gradient by its own squared norm
                before = made.tangents(h * scale)
                for place, (i, t, cotangent) in enumerate(
                    zip(made.weighted, before, behind, strict=True)
                ):
                    if not ctx.needs_input_grad[2 + place]:
                        continue
                    found = _weight_gradient(made.layers[i], t, cotangent)
                    total = totals[place]
                    totals[place] = found if total is None else total + found
        return None, None, *totals


def _linear_part(layer: nn.Module, given: Tensor, output: Tensor, t: Tensor) -> Tensor:
    """L t for the linear map L that the layer is near what it was given."""
    match layer:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return layer._conv_forward(t, layer.weight, None)
        case nn.Linear():
            # without the bias: a tangent is a difference, and biases cancel in it
            return F.linear(t, layer.weight)
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            return t * _per_channel(layer.weight * _inverse_deviation(layer), t)
        case Normalize():
            return t / layer.std
        case nn.MaxPool1d() | nn.MaxPool2d() | nn.MaxPool3d():
            return _picked(layer, given, t)
        # An activation's map is diagonal, so its own backward pass is the forward one; read off
        # the output, which an activation in place leaves where the input was.
        case nn.Hardtanh():
            return torch.ops.aten.hardtanh_backward(t, output, layer.min_val, layer.max_val)
        case nn.LeakyReLU():
            slope = layer.negative_slope
            return torch.ops.aten.leaky_relu_backward(t, output, slope, True)
        case nn.ReLU():
            return torch.ops.aten.threshold_backward(t, output, 0)
    return layer(t)


def _picked(layer: nn.Module, given: Tensor, t: Tensor) -> Tensor:
    """The entries of t where each pooling window of ``given`` is largest."""
    pool = cast(nn.MaxPool2d, layer)
    dims = _MAX_POOLS.index(type(pool)) + 1
    function: Callable[..., tuple[Tensor, Tensor]] = getattr(F, f"max_pool{dims}d_with_indices")
    # the choices are taken again: to keep the indices of the training's own pass would need a
    # forward of ours in place of the user's layer
    _, index = function(
        given, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    )
    if index.is_contiguous():
        return t.flatten(-dims).gather(-1, index.flatten(-dims)).view(index.shape)
    # channels last: with the channels behind the positions nothing is copied, here or later
    found = t.movedim(1, -1).flatten(1, -2).gather(1, index.movedim(1, -1).flatten(1, -2))
    return found.view(len(t), *index.shape[2:], -1).movedim(-1, 1)


def _transposed(layer: nn.Module, given: Tensor, h: Tensor) -> Tensor:
    """L^T h for the linear map L that the layer is near what it was given."""
    if type(layer) is nn.Linear:
        return h @ layer.weight
    if type(layer) in _CONVOLUTIONS:
        return gradient_by_input(h, given, cast(nn.Conv2d, layer).weight, _settings(layer))
    with torch.enable_grad():
        # backpropagation through the layer alone is L^T, whatever L is; only the few layers up to
        # the first weight come here, the others went back with the training's own graph
        leaf = given.clone().requires_grad_()
        output = layer(leaf.clone())
        (found,) = torch.autograd.grad(output, leaf, h)
    return found


def _weight_gradient(layer: nn.Module, t: Tensor, h: Tensor) -> Tensor:
    """What backpropagation gives the layer's weight for input t and output gradient h."""
    if isinstance(layer, nn.Linear):
        # ds/dW = sum over examples, and over positions where a layer runs on several, of h t^T
        return h.flatten(0, -2).mT @ t.flatten(0, -2)
    if isinstance(layer, _BATCH_NORMS):
        # in eval mode y = w (x - mean) / deviation + b, so dy/dw is t / deviation for a tangent t,
        # to which the mean does not belong
        products = t * h * _per_channel(_inverse_deviation(layer), t)
        return products.sum([0, *range(2, t.ndim)])
    return gradient_by_kernel(h, t, cast(nn.Conv2d, layer).weight, _settings(layer))


def _settings(layer: nn.Module) -> Settings:
    conv = cast(nn.Conv2d, layer)
    padding = cast(tuple[int, ...], conv.padding)  # no string, which is no chain
    return conv.stride, padding, conv.dilation, False, (0,) * len(conv.stride), conv.groups


def _inverse_deviation(norm: nn.Module) -> Tensor:
    batch_norm = cast(nn.BatchNorm2d, norm)
    return (cast(Tensor, batch_norm.running_var) + batch_norm.eps).rsqrt()


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))
